package hsm_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// initialised returns a token with root keys.
func initialised(t *testing.T) (softhsm.Fixture, hsm.Config) {
	t.Helper()
	f := softhsm.Token(t)
	_, err := hsm.Init(t.Context(), configOf(f))
	ok(t, err)
	return f, configOf(f)
}

func TestSC03_PINFromAFile(t *testing.T) {
	f, cfg := initialised(t)
	for _, text := range []string{f.PIN, f.PIN + "\n", f.PIN + "\r\n"} {
		cfg.PIN = hsm.PIN{File: pinFile(t, text, 0o400)}
		r, err := hsm.Open(t.Context(), cfg, quiet())
		if err != nil {
			t.Fatalf("%q: %v", strings.ReplaceAll(text, f.PIN, "PIN"), err)
		}
		ok(t, r.Close())
	}
}

func pinFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pin")
	ok(t, os.WriteFile(path, []byte(text), mode))
	return path
}

func TestSC03_PINFilesThatAreRefused(t *testing.T) {
	s, cfg := shimmed(t)
	for _, test := range []struct{ name, path, says string }{
		{"empty", pinFile(t, "", 0o400), "empty"},
		{"a newline", pinFile(t, "\n", 0o400), "empty"},
		{"for everyone to read", pinFile(t, "1234", 0o444), "chmod"},
		{"far too long", pinFile(t, strings.Repeat("1", 100_000), 0o400), "bytes"},
		{"not there", filepath.Join(t.TempDir(), "none"), "none"},
		{"a directory", t.TempDir(), ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg.PIN = hsm.PIN{File: test.path}
			err := refused(t, cfg)
			says(t, err, "pin.file")
			says(t, err, test.says)
		})
	}
	if got := s.calls("C_Login"); got != 0 {
		t.Errorf("%d logins", got)
	}
}

func TestSC03_PINFromAFileDescriptor(t *testing.T) {
	f, cfg := initialised(t)
	cfg.PIN = hsm.PIN{FD: pinFD(t, f.PIN+"\n")}
	hsmtest.Open(t, cfg)
}

// pinFD returns a file descriptor that the root is to close, and that no
// os.File of this process closes too.
func pinFD(t *testing.T, text string) int {
	t.Helper()
	r, w, err := os.Pipe()
	ok(t, err)
	_, err = w.WriteString(text)
	ok(t, errors.Join(err, w.Close()))
	fd, err := syscall.Dup(int(r.Fd()))
	ok(t, errors.Join(err, r.Close()))
	return fd
}

func TestExactlyOnePIN(t *testing.T) {
	cfg := hsm.Config{Module: "m", Token: "t"}
	for _, pin := range []hsm.PIN{{}, {File: "f", Env: "E"}, {Env: "E", FD: 3}, {File: "f", FD: 3}, {FD: 2}, {FD: -1}} {
		cfg.PIN = pin
		says(t, cfg.Check(), "pin")
	}
	for _, pin := range []hsm.PIN{{File: "f"}, {Env: "E"}, {FD: 3}} {
		cfg.PIN = pin
		ok(t, cfg.Check())
	}
}

// wrongPIN is unlike any text that an error could hold by chance.
const wrongPIN = "wrong-4711-pin"

func TestHS14_SC03_AWrongPINIsTriedOnce(t *testing.T) {
	s, cfg := shimmed(t)
	cfg.PIN = hsm.PIN{File: pinFile(t, wrongPIN+"\n", 0o400)}
	var log bytes.Buffer
	r, err := hsm.Open(t.Context(), cfg, slog.New(slog.NewJSONHandler(&log, nil)))
	if err == nil {
		r.Close()
		t.Fatal("it opens")
	}
	is(t, err, kms.ErrDenied)
	says(t, err, "pin.file")
	says(t, err, "CKR_PIN_INCORRECT")
	if got := s.calls("C_Login"); got != 1 {
		t.Errorf("%d calls of C_Login, not 1", got)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", err, err, err, log.String()); strings.Contains(text, wrongPIN) {
		t.Errorf("the PIN is in %s", text)
	}
}

// A PIN that the token refuses while the root runs is not tried again, however
// many requests come, since each try brings the token nearer to being locked.
func TestHS14_ARefusedPINIsNotTriedAgain(t *testing.T) {
	f := openFaulty(t)
	before := f.calls("C_Login")
	f.logOut()
	f.fail("C_Login", fault{code: pkcs11.CKR_PIN_INCORRECT, times: forever})
	for range 50 {
		if err := f.decrypt(); err == nil {
			t.Error("it works without a login")
		}
		_ = f.root.Status(t.Context())
	}
	if got := f.calls("C_Login") - before; got != 1 {
		t.Errorf("%d calls of C_Login, not 1", got)
	}
}

const pinEnv = "KEYGATE_TEST_PIN"

// In a child process, TestPINEnvChild opens a root with a PIN from the
// environment and then looks for it there.
func TestPINEnvChild(t *testing.T) {
	pin, given := os.LookupEnv(pinEnv)
	if !given {
		t.Skip("the child of TestSC03_PINFromTheEnvironment")
	}
	pin = strings.Clone(pin)
	environ := func() string {
		b, err := os.ReadFile("/proc/self/environ")
		ok(t, err)
		return string(b)
	}
	if !strings.Contains(environ(), pin) {
		t.Fatal("the PIN is not in /proc/self/environ before: the test is wrong")
	}
	cfg := hsm.Config{Module: os.Getenv("MODULE"), Token: os.Getenv("TOKEN"), PIN: hsm.PIN{Env: pinEnv}}
	r, err := hsm.Open(t.Context(), cfg, quiet())
	ok(t, err)
	defer r.Close()
	ok(t, r.Status(t.Context()))
	if strings.Contains(environ(), pin) {
		t.Error("the PIN is still in /proc/self/environ")
	}
	if _, left := os.LookupEnv(pinEnv); left {
		t.Error("the variable is still in the environment of Go")
	}
	out, err := exec.Command("env").Output()
	ok(t, err)
	if strings.Contains(string(out), pin) {
		t.Error("child processes get the PIN")
	}
}

func TestSC03_PINFromTheEnvironment(t *testing.T) {
	f, cfg := initialised(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestPINEnvChild$", "-test.v")
	cmd.Env = append(os.Environ(), pinEnv+"="+f.PIN, "MODULE="+cfg.Module, "TOKEN="+cfg.Token)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestPINEnvChild") {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestAPINDescriptorMustHaveBeenHandedOver: a descriptor that was forgotten is
// some file of this process, whose content must not be tried as a PIN.
func TestAPINDescriptorMustHaveBeenHandedOver(t *testing.T) {
	cfg := hsmtest.Config(t)
	own, err := os.Open(os.DevNull)
	ok(t, err)
	defer own.Close()
	for _, fd := range []int{int(own.Fd()), 9999} {
		cfg.PIN = hsm.PIN{FD: fd}
		_, err := hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), "was not handed to this process") {
			t.Errorf("descriptor %d: error is %v", fd, err)
		}
	}
}
