package hsm

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

func TestTheClockOfATokenIsRead(t *testing.T) {
	now := time.Date(2025, 12, 31, 23, 59, 58, 900_000_000, time.UTC)
	for _, test := range []struct {
		flags uint
		text  string
		want  string
	}{
		{pkcs11.CKF_CLOCK_ON_TOKEN, "2026010100000300", "5"},
		{pkcs11.CKF_CLOCK_ON_TOKEN, "2025123123595800", "0"},
		{pkcs11.CKF_CLOCK_ON_TOKEN, "20251231235900", "-58"},
		{0, "2026010100000300", "none"},
		{pkcs11.CKF_CLOCK_ON_TOKEN, "", "none"},
		{pkcs11.CKF_CLOCK_ON_TOKEN, "not a time at all", "none"},
	} {
		got := "none"
		if c := clockOf(pkcs11.TokenInfo{Flags: test.flags, UTCTime: test.text}, now); c != nil {
			got = fmt.Sprint(c.Offset)
		}
		if got != test.want {
			t.Errorf("%q is %s s ahead, not %s", test.text, got, test.want)
		}
	}
}

func TestLimitsThatATokenDoesNotTell(t *testing.T) {
	const unknown = ^uint(0) // CK_UNAVAILABLE_INFORMATION
	for _, test := range []struct {
		limit Limit
		want  string
	}{
		{sessionLimit(3, 16), "3 of 16"},
		{sessionLimit(3, 0), "3 of no limit"},
		{sessionLimit(unknown, unknown), "? of ?"},
		{memoryLimit(1000, 4096), "3096 of 4096"},
		{memoryLimit(unknown, 4096), "? of 4096"},
		{memoryLimit(1000, unknown), "? of ?"},
		{memoryLimit(5000, 4096), "? of 4096"},
	} {
		if got := test.limit.String(); got != test.want {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
}

func TestNumbersWithoutANameAreShownAsSuch(t *testing.T) {
	for got, want := range map[string]string{
		mechanismName(pkcs11.CKM_AES_GCM):                       "CKM_AES_GCM",
		mechanismName(0x80000170):                               "CKM 0x80000170",
		attributeName(pkcs11.CKA_UNWRAP_TEMPLATE):               "CKA_UNWRAP_TEMPLATE",
		fmt.Sprint(flagNames(0x40000004, tokenFlags)):           "[LOGIN_REQUIRED 0x40000000]",
		fmt.Sprint(flagNames(pkcs11.CKF_HW, mechanismFlags)):    "[HW]",
		fmt.Sprint(flagNames(0, mechanismFlags)):                "[]",
		fmt.Sprint(version(pkcs11.Version{Major: 7, Minor: 4})): "7.4",
	} {
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}

func TestPercentilesAreOfTheNearestRank(t *testing.T) {
	var took []time.Duration
	for i := 100; i > 0; i-- {
		took = append(took, time.Duration(i)*time.Second)
	}
	if got := latencyOf("C_Sign", took); got != (Latency{"C_Sign", 100, 50, 90, 99, 100}) {
		t.Errorf("of 1 s to 100 s: %+v", got)
	}
	if got := latencyOf("C_Sign", []time.Duration{time.Second}); got != (Latency{"C_Sign", 1, 1, 1, 1, 1}) {
		t.Errorf("of one call: %+v", got)
	}
}
