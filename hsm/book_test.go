package hsm

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

func TestEachFunctionHasItsName(t *testing.T) {
	seen := make(map[string]bool)
	for f := range functionCount {
		name := f.String()
		if len(name) < 3 || name[:2] != "C_" || seen[name] {
			t.Errorf("function %d is called %q", f, name)
		}
		seen[name] = true
	}
}

func TestABucketHoldsWhatItsBoundSays(t *testing.T) {
	bounds := LatencyBounds()
	if len(bounds) != latencyBuckets-1 {
		t.Fatalf("%d bounds for %d buckets", len(bounds), latencyBuckets)
	}
	for i, bound := range bounds {
		if got := bucket(bound); got != i {
			t.Errorf("%v is in bucket %d, not %d", bound, got, i)
		}
		if got := bucket(bound + 1); got != i+1 {
			t.Errorf("%v is in bucket %d, not %d", bound+1, got, i+1)
		}
	}
	for d, want := range map[time.Duration]int{-1: 0, 0: 0, 1: 0, time.Hour: latencyBuckets - 1} {
		if got := bucket(d); got != want {
			t.Errorf("%v is in bucket %d, not %d", d, got, want)
		}
	}
}

func TestABookAddsUp(t *testing.T) {
	var b book
	inside := b.enter(fnEncrypt)
	b.enter(fnEncrypt).ended(pkcs11.CKR_OK)
	b.enter(fnEncrypt).ended(pkcs11.CKR_DEVICE_ERROR)
	b.enter(fnEncrypt).moved(&b, fnEncryptInit).ended(pkcs11.CKR_KEY_HANDLE_INVALID)
	none, foreign := error(nil), errors.New("not of the module")
	b.enter(fnWrapKey).done(&none)
	b.enter(fnWrapKey).done(&foreign)

	all := b.stats()
	if len(all) != 3 || all[0].Function != "C_EncryptInit" || all[1].Function != "C_Encrypt" || all[2].Function != "C_WrapKey" {
		t.Fatalf("the book has %+v", all)
	}
	for i, want := range []struct {
		calls, inFlight uint64
		errors          string
	}{
		{1, 0, "map[CKR_KEY_HANDLE_INVALID:1]"},
		{2, 1, "map[CKR_DEVICE_ERROR:1]"},
		{2, 0, "map[CKR_GENERAL_ERROR:1]"},
	} {
		if s := all[i]; s.Calls() != want.calls || s.InFlight != want.inFlight || fmt.Sprint(s.Errors) != want.errors || s.Seconds <= 0 {
			t.Errorf("%+v is not %+v", s, want)
		}
	}
	inside.ended(pkcs11.CKR_OK)
	if s := b.stats()[1]; s.Calls() != 3 || s.InFlight != 0 {
		t.Errorf("after its end: %+v", s)
	}
}

// What a module answers becomes a label of a metric: it must not make any number
// of them.
func TestABookHoldsABoundedNumberOfCodes(t *testing.T) {
	var b book
	for code := range uint(10 * maxCodes) {
		b.enter(fnSign).ended(pkcs11.CKR_VENDOR_DEFINED + code)
	}
	codes := b.stats()[0].Errors
	if len(codes) != maxCodes+1 || codes["other"] != 9*maxCodes {
		t.Errorf("%d codes, %d of them others", len(codes), codes["other"])
	}
}

func BenchmarkEnterACall(b *testing.B) {
	var of book
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			of.enter(fnEncrypt).ended(pkcs11.CKR_OK)
		}
	})
}

func BenchmarkEnterACallAlone(b *testing.B) {
	var of book
	for b.Loop() {
		of.enter(fnEncrypt).ended(pkcs11.CKR_OK)
	}
}
