package hsm_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

// A flagged is a token, with root keys, behind testdata/tokenflags.c.
type flagged struct {
	t    *testing.T
	cfg  hsm.Config
	file string
}

func newFlagged(t *testing.T) *flagged {
	t.Helper()
	cfg := hsmtest.Config(t)
	dir := t.TempDir()
	f := &flagged{t: t, cfg: cfg, file: filepath.Join(dir, "flags")}
	f.cfg.Module = filepath.Join(dir, "tokenflags.so")
	cc, err := exec.LookPath("cc")
	if err != nil {
		unable(t, err)
	}
	if out, err := exec.Command(cc, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o", f.cfg.Module, "testdata/tokenflags.c", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("FLAGS_MODULE", cfg.Module)
	t.Setenv("FLAGS_FILE", f.file)
	f.set(0)
	return f
}

func (f *flagged) set(flags uint) {
	f.t.Helper()
	ok(f.t, os.WriteFile(f.file, fmt.Appendf(nil, "%x", flags), 0o600))
}

// One more wrong PIN locks the token: nobody tries one, whether or not it is right.
func TestHS14_ThePINIsNotRiskedAtTheFinalTry(t *testing.T) {
	f := newFlagged(t)
	for flag, text := range map[uint]string{
		pkcs11.CKF_USER_PIN_FINAL_TRY: "CKF_USER_PIN_FINAL_TRY",
		pkcs11.CKF_USER_PIN_LOCKED:    "CKF_USER_PIN_LOCKED",
	} {
		f.set(flag)
		err := refused(t, f.cfg)
		is(t, err, hsm.ErrPINAtRisk)
		is(t, err, kms.ErrDenied)
		says(t, err, text)
		_, err = hsm.Init(t.Context(), f.cfg)
		is(t, err, hsm.ErrPINAtRisk)
		report, err := hsm.Doctor(t.Context(), f.cfg)
		ok(t, err)
		if report.OK || report.Details == nil || len(report.Checks) != 2 || report.Checks[0].OK || !strings.Contains(report.Checks[0].Why, text) {
			t.Errorf("the doctor says %+v", report)
		}
	}
	f.set(pkcs11.CKF_USER_PIN_LOCKED)
	if report, err := hsm.Examine(t.Context(), f.cfg, hsm.Examination{FinalTry: true}); err != nil || report.OK {
		t.Errorf("a PIN that is locked: %v, %+v", err, report)
	}
	f.set(pkcs11.CKF_USER_PIN_FINAL_TRY)
	report, err := hsm.Examine(t.Context(), f.cfg, hsm.Examination{FinalTry: true})
	ok(t, err)
	if !report.OK {
		t.Errorf("the doctor was told to try the PIN, and says %+v", report.Checks)
	}
}

// Nor is that of the security officer, whose last try costs all keys in some tokens.
func TestHS14_TheOfficersPINIsNotRiskedAtTheFinalTry(t *testing.T) {
	f := newFlagged(t)
	f.cfg.OtherKEKs = []string{nextKEK}
	officer := hsm.PIN{File: pinFile(t, wrongPIN, 0o400)}
	for flag, text := range map[uint]string{
		pkcs11.CKF_SO_PIN_FINAL_TRY: "CKF_SO_PIN_FINAL_TRY",
		pkcs11.CKF_SO_PIN_LOCKED:    "CKF_SO_PIN_LOCKED",
	} {
		f.set(flag)
		_, err := hsm.BeginRotation(t.Context(), f.cfg, officer)
		is(t, err, hsm.ErrPINAtRisk)
		says(t, err, text)
	}
	f.set(0)
	_, err := hsm.BeginRotation(t.Context(), f.cfg, officer)
	is(t, err, hsm.ErrPIN) // it is tried
}

// A PIN that the token has taken from this process is right: to lose the connection
// while others guess PINs must not end the service.
func TestHS14_APINThatWasAcceptedIsTriedAgain(t *testing.T) {
	f := newFlagged(t)
	f.set(pkcs11.CKF_USER_PIN_COUNT_LOW)
	r := hsmtest.Open(t, f.cfg)
	f.set(pkcs11.CKF_USER_PIN_FINAL_TRY)
	logOut(t, r)
	ok(t, r.Status(t.Context()))
	if s := r.Stats(); s.Logins != 2 || s.PINsWithheld != 0 || s.PINsRefused != 0 {
		t.Errorf("%d logins, %d withheld, %d refused", s.Logins, s.PINsWithheld, s.PINsRefused)
	}

	right, err := os.ReadFile(f.cfg.PIN.File)
	ok(t, err)
	ok(t, os.Chmod(f.cfg.PIN.File, 0o600))
	ok(t, os.WriteFile(f.cfg.PIN.File, []byte("another PIN"), 0o600))
	logOut(t, r)
	err = r.Status(t.Context())
	is(t, err, hsm.ErrPINAtRisk)
	if s := r.Stats(); s.Logins != 2 || s.PINsWithheld == 0 {
		t.Errorf("%d logins, %d withheld", s.Logins, s.PINsWithheld)
	}
	ok(t, os.WriteFile(f.cfg.PIN.File, right, 0o600))
	waitFor(t, func() bool { return r.Status(t.Context()) == nil })
}

// logOut ends the login of the process, so that the next call needs another.
func logOut(t *testing.T, r *hsm.Root) {
	t.Helper()
	ok(t, r.OnSession(context.Background(), func(c hsm.Calls) { ok(t, c.Logout(c.Session)) }))
}

func TestTheDoctorTellsOfAWrongPIN(t *testing.T) {
	f := newFlagged(t)
	for flag, text := range map[uint]string{
		0:                                 "no wrong one",
		pkcs11.CKF_USER_PIN_COUNT_LOW:     "a wrong one was given",
		pkcs11.CKF_USER_PIN_TO_BE_CHANGED: "to be changed",
	} {
		f.set(flag)
		report, err := hsm.Doctor(t.Context(), f.cfg)
		ok(t, err)
		if !report.OK || !strings.Contains(report.Checks[0].Found, text) {
			t.Errorf("flags %x: %+v", flag, report.Checks[0])
		}
	}
}

// What is told of the security officer's PIN makes no token unfit: gateways do without.
func TestTheDoctorTellsOfThePINOfTheSecurityOfficer(t *testing.T) {
	f := newFlagged(t)
	for flags, text := range map[uint]string{
		0:                           "no wrong one since the last login",
		pkcs11.CKF_SO_PIN_COUNT_LOW: "a wrong one was given since the last login",
		pkcs11.CKF_SO_PIN_COUNT_LOW | pkcs11.CKF_SO_PIN_FINAL_TRY:         "one wrong one more locks it",
		pkcs11.CKF_SO_PIN_FINAL_TRY | pkcs11.CKF_SO_PIN_LOCKED:            "locked",
		pkcs11.CKF_SO_PIN_TO_BE_CHANGED:                                   "no wrong one since the last login; to be changed",
		pkcs11.CKF_SO_PIN_LOCKED | pkcs11.CKF_SO_PIN_TO_BE_CHANGED:        "locked; to be changed",
		pkcs11.CKF_USER_PIN_COUNT_LOW | pkcs11.CKF_USER_PIN_TO_BE_CHANGED: "no wrong one since the last login",
	} {
		f.set(flags)
		report, err := hsm.Doctor(t.Context(), f.cfg)
		ok(t, err)
		if c := report.Checks[1]; c.What != "PIN of the security officer" || c.Found != text || !c.OK {
			t.Errorf("flags %x: %+v, not %q", flags, c, text)
		}
		if c := report.Checks[0]; !report.OK || c.What != "PIN of the user" || !c.OK || strings.Contains(c.Found, "a wrong one") != (flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0) {
			t.Errorf("flags %x: the token is fit: %v; %+v", flags, report.OK, c)
		}
	}
}
