// Package p11shim builds and drives a PKCS#11 module that stands before another
// one: it counts the calls of each function and makes them fail, be slow or
// hang. It is for tests and measurements.
package p11shim

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

//go:embed module/shim.c
var source []byte

// Functions is the order of CK_FUNCTION_LIST (PKCS#11 v2.40), to which the
// control file keeps.
var Functions = []string{
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

// A Fault is what a function does instead of, or before, its work. The zero
// value is none.
type Fault struct {
	Code  uint          // the CKR code that is answered
	Times int           // how many calls; Forever: all
	Skip  int           // how many calls pass before
	Sleep time.Duration // before each call, in whole milliseconds; ends with the fault
	Every int           // only one call of so many sleeps, or is answered with Code; zero: each
	After bool          // make the real call, and then answer Code
	Flip  int           // instead of the answer, flip a bit of what this argument (from 1) points to
	Abort bool          // the process ends at the next call or, with Times or Skip, at those calls
	Trap  bool          // with Abort: by a bad address, SIGSEGV, and not by SIGABRT
	Hold  bool          // calls that begin hang until Free, also when the fault has ended
	Only  *uint         // if not nil, only calls with this first argument, a slot or a session
}

// Forever is Times without an end.
const Forever = -1

// The layout of struct entry in shim.c: words of 8 bytes.
const (
	entrySize = 120
	atCalls   = 0
	atRV      = 8
	atTimes   = 16
	atSkip    = 24
	atSleep   = 32
	atInside  = 40
	atAfter   = 48
	atAbort   = 56
	atFlip    = 64
	atHold    = 72
	atFreed   = 80
	atOffset  = 88
	atHide    = 96
	atEvery   = 104
	atOnly    = 112
)

// Build writes the module into dir and returns its path. A process that loads it
// needs what Control.Env says in its environment.
func Build(dir string) (string, error) {
	text, err := compiled()
	if err != nil {
		return "", err
	}
	module := filepath.Join(dir, "shim.so")
	return module, os.WriteFile(module, text, 0o700)
}

// Build writes a module into dir that needs nothing in the environment: one process
// can have several.
func (c *Control) Build(dir string) (string, error) {
	module, err := Build(dir)
	if err != nil {
		return "", err
	}
	return module, os.WriteFile(module+".of", []byte(c.real+"\n"+c.file.Name()+"\n"), 0o600)
}

// compiled is the module, for which cc is run once in a process: that takes a second
// where others work on the same machine.
var compiled = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "p11shim-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, module := filepath.Join(dir, "shim.c"), filepath.Join(dir, "shim.so")
	if err := os.WriteFile(c, source, 0o600); err != nil {
		return nil, err
	}
	flags := append(strings.Fields(os.Getenv("P11SHIM_CFLAGS")), "-O2", "-shared", "-fPIC", "-o", module, c, "-ldl")
	if out, err := exec.Command("cc", flags...).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("p11shim: cc: %w: %s", err, out)
	}
	return os.ReadFile(module)
})

// A Control is the control file of a shim: what is written holds at once, in
// every process that has the shim open with it.
type Control struct {
	real string // path of the module behind the shim
	file *os.File
}

// NewControl makes a control file at path for a shim before the module real.
func NewControl(path, real string) (*Control, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(int64(len(Functions)) * entrySize); err != nil {
		f.Close()
		return nil, err
	}
	return &Control{real: real, file: f}, nil
}

// OpenControl opens the control file that another process made.
func OpenControl(path, real string) (*Control, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &Control{real: real, file: f}, nil
}

// Path is where the control file is.
func (c *Control) Path() string { return c.file.Name() }

// Env is what a process needs in its environment when it loads the shim.
func (c *Control) Env() []string {
	return []string{"SHIM_MODULE=" + c.real, "SHIM_CONTROL=" + c.file.Name()}
}

// Close closes the control file.
func (c *Control) Close() error { return c.file.Close() }

// end is what the control file says of Abort and Trap.
func (f Fault) end() int64 {
	if !f.Abort {
		return 0
	}
	return 1 | flag(f.Times != 0 || f.Skip != 0)<<1 | flag(f.Trap)<<2
}

// only is what the control file says of Only.
func (f Fault) only() int64 {
	if f.Only == nil {
		return 0
	}
	return int64(*f.Only) + 1
}

// Fail has a function do f from its next call on.
func (c *Control) Fail(function string, f Fault) error {
	hold := int64(0)
	if f.Hold {
		freed, err := c.read(function, atFreed)
		if err != nil {
			return err
		}
		hold = freed + 1
	}
	for _, w := range []struct{ at, value int64 }{
		{atTimes, 0}, // first and last, so that no call meets half of it
		{atOnly, f.only()},
		{atRV, int64(f.Code)},
		{atSkip, int64(f.Skip)},
		{atSleep, f.Sleep.Milliseconds()},
		{atEvery, int64(f.Every)},
		{atAfter, flag(f.After)},
		{atAbort, f.end()},
		{atFlip, int64(f.Flip)},
		{atHold, hold},
		{atTimes, int64(f.Times)},
	} {
		if err := c.write(function, w.at, w.value); err != nil {
			return err
		}
	}
	return nil
}

// Slow is Fail with nothing but a time that each call takes longer.
func (c *Control) Slow(by time.Duration, functions ...string) error {
	for _, function := range functions {
		if err := c.write(function, atSleep, by.Milliseconds()); err != nil {
			return err
		}
	}
	return nil
}

// Heal ends all faults. What Hold holds stays held.
func (c *Control) Heal() error {
	for _, function := range Functions {
		if err := c.Fail(function, Fault{}); err != nil {
			return err
		}
	}
	return nil
}

// Free lets go all calls of a function that Hold has held.
func (c *Control) Free(function string) error {
	freed, err := c.read(function, atFreed)
	if err != nil {
		return err
	}
	return c.write(function, atFreed, freed+1)
}

// Hide leaves a mechanism out of the answers of C_GetMechanismList. Zero hides none.
func (c *Control) Hide(mechanism uint) error {
	return c.write("C_GetMechanismList", atHide, int64(mechanism))
}

// Renumber adds offset to the number of each slot.
func (c *Control) Renumber(offset int64) error { return c.write("C_GetSlotList", atOffset, offset) }

// Calls returns how often a function was called.
func (c *Control) Calls(function string) (int64, error) { return c.read(function, atCalls) }

// Inside returns how many calls are in a function now.
func (c *Control) Inside(function string) (int64, error) { return c.read(function, atInside) }

// Left returns how often the fault of a function is still to come.
func (c *Control) Left(function string) (int64, error) { return c.read(function, atTimes) }

// A Tally is how many calls of each function were made.
type Tally map[string]uint64

// Tally counts the calls of all functions.
func (c *Control) Tally() (Tally, error) {
	all := make([]byte, len(Functions)*entrySize)
	if _, err := c.file.ReadAt(all, 0); err != nil {
		return nil, err
	}
	t := make(Tally)
	for i, f := range Functions {
		t[f] = binary.NativeEndian.Uint64(all[i*entrySize+atCalls:])
	}
	return t, nil
}

// Since returns the calls that t has more than before.
func (t Tally) Since(before Tally) Tally {
	d := make(Tally)
	for f, n := range t {
		if n > before[f] {
			d[f] = n - before[f]
		}
	}
	return d
}

// Of adds up the calls of these functions.
func (t Tally) Of(functions []string) (n uint64) {
	for _, f := range functions {
		n += t[f]
	}
	return n
}

// List names those of these functions that were called, and how often:
// "C_Encrypt 2, C_Sign 1".
func (t Tally) List(functions []string) string {
	var lines []string
	for _, f := range functions {
		if t[f] > 0 {
			lines = append(lines, fmt.Sprintf("%s %d", f, t[f]))
		}
	}
	return strings.Join(lines, ", ")
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

func (c *Control) write(function string, at, value int64) error {
	entry, err := entryOf(function)
	if err == nil {
		_, err = c.file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(value)), entry+at)
	}
	return err
}

func (c *Control) read(function string, at int64) (int64, error) {
	entry, err := entryOf(function)
	if err != nil {
		return 0, err
	}
	b := make([]byte, 8)
	_, err = c.file.ReadAt(b, entry+at)
	return int64(binary.NativeEndian.Uint64(b)), err
}

func entryOf(function string) (int64, error) {
	n := slices.Index(Functions, function)
	if n < 0 {
		return 0, fmt.Errorf("p11shim: no function %q", function)
	}
	return int64(n) * entrySize, nil
}
