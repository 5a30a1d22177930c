package hsm_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/softhsm"
)

// A shim is the module of package p11shim before SoftHSM: its calls can be
// counted and made to fail.
type shim struct {
	t       *testing.T
	control *p11shim.Control
	fixture softhsm.Fixture
	cfg     hsm.Config
	module  string // path
}

// A fault is what a function of the module does instead of its work.
type fault struct {
	code  uint          // the answer
	times int           // how many calls; negative: for ever
	skip  int           // how many calls pass before
	sleep time.Duration // before each call, in whole milliseconds
	every int           // only one call of so many sleeps, or is answered
	after bool          // make the real call before the answer
	flip  int           // instead of the answer, flip a bit of what this argument (from 1) points to
	abort bool          // the process ends at the next call or, with times, at so many
	trap  bool          // with abort: by SIGSEGV
	hold  bool          // calls hang until free, also after heal
	only  *uint         // if not nil, only calls with this first argument, a slot or a session
}

const forever = p11shim.Forever

// shimmed returns the configuration of a new token, with root keys, behind a
// shim of its own.
func shimmed(t *testing.T) (*shim, hsm.Config) {
	t.Helper()
	f := softhsm.Token(t)
	cfg := hsm.Config{Module: f.Module, Token: f.Label, PIN: hsm.PIN{File: f.PINFile}, Sessions: 4, Timeout: time.Second}
	if _, err := hsm.Init(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return shimBefore(t, f, f.Module, cfg)
}

// shimBefore puts a shim of its own before the library at path, in which cfg's token
// is.
func shimBefore(t *testing.T, f softhsm.Fixture, path string, cfg hsm.Config) (*shim, hsm.Config) {
	t.Helper()
	dir := t.TempDir()
	control, err := p11shim.NewControl(filepath.Join(dir, "control"), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	cfg.Module, err = control.Build(dir)
	if err != nil {
		unable(t, err)
	}
	s := &shim{t: t, control: control, fixture: f, cfg: cfg, module: cfg.Module}
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

// fail makes a function do f from its next call on.
func (s *shim) fail(function string, f fault) {
	s.t.Helper()
	ok(s.t, s.control.Fail(function, p11shim.Fault{
		Code: f.code, Times: f.times, Skip: f.skip, Sleep: f.sleep, Every: f.every, After: f.after, Flip: f.flip, Abort: f.abort, Trap: f.trap, Hold: f.hold, Only: f.only,
	}))
}

// hide takes a mechanism out of the token's list. The token still has it.
func (s *shim) hide(mechanism uint) {
	s.t.Helper()
	ok(s.t, s.control.Hide(mechanism))
}

// heal ends all faults.
func (s *shim) heal() {
	s.t.Helper()
	ok(s.t, s.control.Heal())
}

// free lets go the calls of a function that hold has held.
func (s *shim) free(function string) {
	s.t.Helper()
	ok(s.t, s.control.Free(function))
}

// calls returns how often a function was called.
func (s *shim) calls(function string) int {
	s.t.Helper()
	n, err := s.control.Calls(function)
	ok(s.t, err)
	return int(n)
}

// inside returns how many calls are in a function now.
func (s *shim) inside(function string) int {
	s.t.Helper()
	n, err := s.control.Inside(function)
	ok(s.t, err)
	return int(n)
}

// left returns how often the fault of a function is still to come.
func (s *shim) left(function string) int {
	s.t.Helper()
	n, err := s.control.Left(function)
	ok(s.t, err)
	return int(n)
}

// renumber adds offset to the number of each slot.
func (s *shim) renumber(offset int64) {
	s.t.Helper()
	ok(s.t, s.control.Renumber(offset))
}
