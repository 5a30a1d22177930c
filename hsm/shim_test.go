package hsm_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/softhsm"
)

// functions is the order of CK_FUNCTION_LIST (PKCS#11 v2.40).
var functions = []string{
	"C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList", "C_GetSlotList", "C_GetSlotInfo", "C_GetTokenInfo",
	"C_GetMechanismList", "C_GetMechanismInfo", "C_InitToken", "C_InitPIN", "C_SetPIN", "C_OpenSession", "C_CloseSession",
	"C_CloseAllSessions", "C_GetSessionInfo", "C_GetOperationState", "C_SetOperationState", "C_Login", "C_Logout",
	"C_CreateObject", "C_CopyObject", "C_DestroyObject", "C_GetObjectSize", "C_GetAttributeValue", "C_SetAttributeValue",
	"C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_EncryptInit", "C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal",
	"C_DecryptInit", "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal", "C_DigestInit", "C_Digest", "C_DigestUpdate", "C_DigestKey",
	"C_DigestFinal", "C_SignInit", "C_Sign", "C_SignUpdate", "C_SignFinal", "C_SignRecoverInit", "C_SignRecover", "C_VerifyInit",
	"C_Verify", "C_VerifyUpdate", "C_VerifyFinal", "C_VerifyRecoverInit", "C_VerifyRecover", "C_DigestEncryptUpdate",
	"C_DecryptDigestUpdate", "C_SignEncryptUpdate", "C_DecryptVerifyUpdate", "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey",
	"C_UnwrapKey", "C_DeriveKey", "C_SeedRandom", "C_GenerateRandom", "C_GetFunctionStatus", "C_CancelFunction", "C_WaitForSlotEvent",
}

// A shim is testdata/shim.c before SoftHSM: a module whose calls can be counted
// and made to fail.
type shim struct {
	t       *testing.T
	control *os.File
	fixture softhsm.Fixture
	cfg     hsm.Config
}

// A fault is what a function of the module does instead of its work.
type fault struct {
	code  uint          // the answer
	times int           // how many calls; negative: for ever
	skip  int           // how many calls pass before
	sleep time.Duration // before each call, in whole milliseconds
	after bool          // make the real call before the answer
	flip  int           // instead of the answer, flip a bit of what this argument (from 1) points to
}

const forever = -1

// shimmed returns the configuration of a new token, with root keys, behind a
// shim of its own.
func shimmed(t *testing.T) (*shim, hsm.Config) {
	t.Helper()
	f := softhsm.Token(t)
	cfg := hsm.Config{Module: f.Module, Token: f.Label, PIN: hsm.PIN{File: f.PINFile}, Sessions: 4, Timeout: time.Second}
	if _, err := hsm.Init(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cfg.Module = filepath.Join(dir, "shim.so")
	cc, err := exec.LookPath("cc")
	if err != nil {
		unable(t, err)
	}
	if out, err := exec.Command(cc, "-O1", "-shared", "-fPIC", "-o", cfg.Module, "testdata/shim.c", "-ldl").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	control := filepath.Join(dir, "control")
	file, err := os.Create(control)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if err := file.Truncate(int64(len(functions)) * entrySize); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHIM_MODULE", f.Module)
	t.Setenv("SHIM_CONTROL", control)
	s := &shim{t: t, control: file, fixture: f, cfg: cfg}
	t.Cleanup(s.heal) // before the root is closed: what hangs ends
	return s, cfg
}

func unable(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// The layout of struct entry in shim.c: words of 8 bytes.
const (
	entrySize = 80
	atCalls   = 0
	atRV      = 8
	atTimes   = 16
	atSkip    = 24
	atSleep   = 32
	atInside  = 40
	atAfter   = 48
	atFlip    = 64
	atHide    = 72
)

func (s *shim) write(function string, offset int64, value int64) {
	s.t.Helper()
	n := slices.Index(functions, function)
	if n < 0 {
		s.t.Fatalf("no function %s", function)
	}
	if _, err := s.control.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(value)), int64(n)*entrySize+offset); err != nil {
		s.t.Fatal(err)
	}
}

func (s *shim) read(function string, offset int64) int {
	s.t.Helper()
	b := make([]byte, 8)
	if _, err := s.control.ReadAt(b, int64(slices.Index(functions, function))*entrySize+offset); err != nil {
		s.t.Fatal(err)
	}
	return int(binary.NativeEndian.Uint64(b))
}

// fail makes a function do f from its next call on.
func (s *shim) fail(function string, f fault) {
	s.t.Helper()
	s.write(function, atTimes, 0)
	s.write(function, atRV, int64(f.code))
	s.write(function, atSkip, int64(f.skip))
	s.write(function, atSleep, f.sleep.Milliseconds())
	after := int64(0)
	if f.after {
		after = 1
	}
	s.write(function, atAfter, after)
	s.write(function, atFlip, int64(f.flip))
	s.write(function, atTimes, int64(f.times))
}

// hide takes a mechanism out of the token's list. The token still has it.
func (s *shim) hide(mechanism uint) { s.write("C_GetMechanismList", atHide, int64(mechanism)) }

// heal ends all faults.
func (s *shim) heal() {
	for _, function := range functions {
		s.fail(function, fault{})
	}
}

// calls returns how often a function was called.
func (s *shim) calls(function string) int { return s.read(function, atCalls) }

// inside returns how many calls are in a function now.
func (s *shim) inside(function string) int { return s.read(function, atInside) }
