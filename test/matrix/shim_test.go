package matrix_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keygate/keygate/softhsm"
)

// A shim is a PKCS#11 module before SoftHSM, ../../hsm/testdata/shim.c, all of
// whose functions can be made to fail: but the first, by which the module is begun
// and ended and tells of its functions.
type shim struct {
	t       *testing.T
	control *os.File
}

// The layout of the shim's control file: an entry for each function, of words of
// 8 bytes.
const (
	shimFunctions = 68
	shimBegin     = 4 // C_Initialize, C_Finalize, C_GetInfo, C_GetFunctionList
	shimEntry     = 80
	shimAnswer    = 8
	shimTimes     = 16
	shimSleep     = 32
)

// newShim returns a root in a token behind a shim of its own.
func newShim(t *testing.T) (*shim, section) {
	t.Helper()
	f := softhsm.Token(t)
	dir := t.TempDir()
	module := filepath.Join(dir, "shim.so")
	if out, err := exec.Command("cc", "-O1", "-shared", "-fPIC", "-o", module, "../../hsm/testdata/shim.c", "-ldl").CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("cc: %v: %s", err, out)
		}
		t.Skipf("cc: %v: %s", err, out)
	}
	control, err := os.Create(filepath.Join(dir, "control"))
	if err == nil {
		err = control.Truncate(shimFunctions * shimEntry)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	s := pkcs11(f, module)
	s.env = append(s.env, "SHIM_MODULE="+f.Module, "SHIM_CONTROL="+control.Name())
	return &shim{t, control}, s
}

// fails has all functions answer code from now on; 0 heals.
func (s *shim) fails(code uint64) {
	times := int64(-1)
	if code == 0 {
		times = 0
	}
	s.write(shimAnswer, code)
	s.write(shimTimes, uint64(times))
}

// hangs has all functions wait for a minute, or until this is undone.
func (s *shim) hangs(so bool) {
	var ms uint64
	if so {
		ms = 60_000
	}
	s.write(shimSleep, ms)
}

func (s *shim) write(offset int64, value uint64) {
	s.t.Helper()
	for i := int64(shimBegin); i < shimFunctions; i++ {
		if _, err := s.control.WriteAt(binary.NativeEndian.AppendUint64(nil, value), i*shimEntry+offset); err != nil {
			s.t.Error(err)
		}
	}
}
