package hsm_test

import (
	"strings"
	"testing"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
)

// found returns what the doctor found of the check whose name begins and ends so.
func found(t *testing.T, cfg hsm.Config, prefix, suffix string) string {
	t.Helper()
	report, err := hsm.Doctor(t.Context(), cfg)
	ok(t, err)
	for _, c := range report.Checks {
		if strings.HasPrefix(c.What, prefix) && strings.HasSuffix(c.What, suffix) {
			return c.Found
		}
	}
	t.Fatalf("the doctor does not say %s ... %s: %+v", prefix, suffix, report.Checks)
	return ""
}

func TestCheckValuesTellKeysApart(t *testing.T) {
	one, other := hsmtest.Config(t), hsmtest.Config(t)
	for _, key := range []string{"KEK ", "record key "} {
		value := found(t, one, key, ": check value")
		if strings.Contains(value, "not known") || len(value) < 16 {
			t.Errorf("the check value of the %s is %q", key, value)
		}
		if again := found(t, one, key, ": check value"); again != value {
			t.Errorf("the check value of the %s is %q, and then %q", key, value, again)
		}
		if found(t, other, key, ": check value") == value {
			t.Errorf("two tokens have the same check value of the %s", key)
		}
	}
}

func TestTheDoctorSaysHowAKEKMayEnd(t *testing.T) {
	if end := found(t, hsmtest.Config(t), "KEK ", ": replacement"); !strings.Contains(end, "by a KEK that the security officer trusts") {
		t.Errorf("the end is %q", end)
	}
	cfg := hsmtest.Empty(t)
	_, err := hsm.InitWith(t.Context(), cfg, hsm.InitOptions{Strict: true})
	ok(t, err)
	if end := found(t, cfg, "KEK ", ": replacement"); !strings.Contains(end, "never") {
		t.Errorf("the end is %q", end)
	}
	cfg = hsmtest.Empty(t)
	cfg.Copyable = "allowed"
	made, err := hsm.InitWith(t.Context(), cfg, hsm.InitOptions{Copyable: true})
	ok(t, err)
	if made.Rotatable || !made.Copyable {
		t.Errorf("hsm.InitWith says of a KEK that can be copied: %+v", made)
	}
	if end := found(t, cfg, "KEK ", ": replacement"); !strings.Contains(end, "not in this token") {
		t.Errorf("the end of a KEK that can be copied is %q", end)
	}
}
