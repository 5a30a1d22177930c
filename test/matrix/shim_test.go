package matrix_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/softhsm"
)

// A shim is a PKCS#11 module before SoftHSM, all of whose functions can be made
// to fail: but the first, by which the module is begun and ended and tells of its
// functions.
type shim struct {
	t       *testing.T
	control *p11shim.Control
}

// shimBegin is the place of the first function after C_Initialize, C_Finalize,
// C_GetInfo and C_GetFunctionList.
const shimBegin = 4

// newShim returns a root in a token behind a shim of its own.
func newShim(t *testing.T) (*shim, section) {
	t.Helper()
	f := softhsm.Token(t)
	dir := t.TempDir()
	module, err := p11shim.Build(dir)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	control, err := p11shim.NewControl(filepath.Join(dir, "control"), f.Module)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	s := pkcs11(f, module)
	s.env = append(s.env, control.Env()...)
	return &shim{t, control}, s
}

// fails has all functions answer code from now on; 0 heals.
func (s *shim) fails(code uint64) {
	fault := p11shim.Fault{Code: uint(code), Times: p11shim.Forever}
	if code == 0 {
		fault = p11shim.Fault{}
	}
	s.all(fault)
}

// hangs has all functions wait for a minute, or until this is undone.
func (s *shim) hangs(so bool) {
	fault := p11shim.Fault{Sleep: time.Minute}
	if !so {
		fault = p11shim.Fault{}
	}
	s.all(fault)
}

func (s *shim) all(fault p11shim.Fault) {
	s.t.Helper()
	for _, function := range p11shim.Functions[shimBegin:] {
		if err := s.control.Fail(function, fault); err != nil {
			s.t.Error(err)
		}
	}
}
