package hsm_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/kms"
)

// abortEnv has TestMatrixAborts, in a child process, what its root is and which
// function ends it, as an abortOrder.
const abortEnv = "KEYGATE_TEST_ABORT"

type abortOrder struct {
	Function            string
	Module, Token, PIN  string // of the shim; the PIN's file
	Real, Control, Keys string // the module behind it; files
	Handle, Ciphertext  []byte // of an earlier process
}

// A legacy is what a process left that ended in the module.
type legacy struct{ Handle, Ciphertext, MACHandle, MAC []byte }

func TestMatrixAborts(t *testing.T) {
	var o abortOrder
	text := os.Getenv(abortEnv)
	if text == "" {
		t.Skip("a child of TestHS01_F4_AModuleThatEndsTheProcessLosesNothing")
	}
	ok(t, json.Unmarshal([]byte(text), &o))
	control, err := p11shim.OpenControl(o.Control, o.Real)
	ok(t, err)
	defer control.Close()
	m := newMatrix(t, &shim{t: t, control: control}, hsm.Config{Module: o.Module, Token: o.Token, PIN: hsm.PIN{File: o.PIN}})
	m.open()
	if o.Handle != nil {
		ok(t, m.opens(matrixKey{handle: o.Handle, ciphertext: o.Ciphertext}))
	}
	m.prepare()
	left, err := json.Marshal(legacy{m.handle, m.ciphertext, m.macKey, m.mac[:]})
	ok(t, err)
	ok(t, os.WriteFile(o.Keys, left, 0o600))
	m.fail(o.Function, fault{abort: true})
	m.lead(o.Function)
	m.round()
	t.Error("it was not called")
}

func TestHS01_F4_AModuleThatEndsTheProcessLosesNothing(t *testing.T) {
	s, cfg := shimmed(t)
	after := cfg
	after.Module = s.fixture.Module
	root := hsmtest.Open(t, after)
	var last legacy
	for _, f := range matrixFunctions {
		t.Run(f.name, func(t *testing.T) {
			keys := filepath.Join(t.TempDir(), "keys")
			order, err := json.Marshal(abortOrder{
				Function: f.name, Module: cfg.Module, Token: cfg.Token, PIN: cfg.PIN.File, Real: s.fixture.Module, Control: s.control.Path(),
				Keys: keys, Handle: last.Handle, Ciphertext: last.Ciphertext,
			})
			ok(t, err)
			out, err := child("TestMatrixAborts", abortEnv+"="+string(order))
			s.heal()
			if err == nil || !strings.Contains(string(out), "SIGABRT") {
				t.Fatalf("the process did not end in the module: %v: %s", err, out)
			}
			text, err := os.ReadFile(keys)
			ok(t, err)
			ok(t, json.Unmarshal(text, &last))
			got, err := root.Decrypt(t.Context(), last.Handle, last.Ciphertext, nil)
			if err != nil || string(got) != "plaintext" {
				t.Errorf("what was encrypted before decrypts to %q, %v", got, err)
			}
			mac, err := root.MAC(t.Context(), last.MACHandle, []byte("message"))
			if err != nil || string(mac[:]) != string(last.MAC) {
				t.Errorf("a key for MACs gives %x, %v, not %x", mac, err, last.MAC)
			}
		})
	}
	if _, err := root.NewKey(t.Context(), kms.KeyID{9}, kms.Encryption); err != nil {
		t.Error(err)
	}
}

// With isolation: worker each function ends the worker, in the matrix of all others. A
// worker is as far as the last one was only after a second: every fourth function, or
// with KEYGATE_LONG=1 all.
func TestHS01_F4_AModuleThatEndsItsWorker(t *testing.T) {
	if !allCells() {
		t.Skip("KEYGATE_LONG=1 runs it with the race detector")
	}
	s, cfg := shimmed(t)
	m := newMatrix(t, s, isolated(cfg))
	m.open()
	t.Cleanup(func() {
		s.heal()
		ok(t, m.root.Close())
	})
	m.prepare()
	var times []time.Duration
	tally := map[string]int{}
	for i, f := range matrixFunctions {
		if i%4 != 0 && os.Getenv("KEYGATE_LONG") != "1" {
			continue
		}
		found := m.runFairly(cell{f.name, 0, abort})
		times, tally[found.Told] = append(times, found.Recovery), tally[found.Told]+1
		if found.Wrong != nil {
			t.Errorf("%v: %s", found.Cell, strings.Join(found.Wrong, "; "))
		}
	}
	for _, k := range m.keys {
		ok(t, m.opens(k))
	}
	slices.Sort(times)
	t.Logf("%d workers ended: %v; all served again after %v, at most %v", len(times), tally, times[len(times)/2].Round(time.Millisecond), times[len(times)-1].Round(time.Millisecond))
}
