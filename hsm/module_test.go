package hsm_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// soon runs fn, and fails if it has not returned after so long.
func soon(t *testing.T, limit time.Duration, what string, fn func()) {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		fn()
	}()
	select {
	case <-ended:
	case <-time.After(limit):
		t.Fatalf("%s has not returned after %v", what, limit)
	}
}

// held has the calls of a function that begin from now on hang until the test ends or
// let is called.
func (s *shim) held(function string, f fault) (let func()) {
	s.t.Helper()
	f.hold = true
	s.fail(function, f)
	let = func() { s.heal(); s.free(function) }
	s.t.Cleanup(let)
	return let
}

// openWithin opens the root that cfg names with a context that ends after so long. It
// has to return little later.
func openWithin(t *testing.T, cfg hsm.Config, limit time.Duration) (root *hsm.Root, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	soon(t, limit+2*time.Second, "Open", func() { root, err = hsm.Open(ctx, cfg, quiet()) })
	return root, err
}

// A library that hangs when it is initialised is like a token that is away: the others
// are used, and it is as soon as it works.
func TestHS16_ALibraryThatHangsIsAway(t *testing.T) {
	for name, isolation := range map[string]string{"in-process": "", "worker": hsm.IsolationWorker} {
		t.Run(name, func(t *testing.T) {
			shims, cfg := pair(t)
			cfg.Isolation = isolation
			let := shims[1].held("C_Initialize", fault{})
			root, err := openWithin(t, cfg, 2*time.Second)
			ok(t, err)
			defer root.Close()
			handle := newKey(t, root, kms.Encryption)
			for range 20 {
				useGroup(t, root, handle)
			}
			if s := root.Tokens()[1]; s.Works || s.Why == "" {
				t.Errorf("of the token whose library hangs it is told: %+v", s)
			}
			if isolation == "" {
				time.Sleep(300 * time.Millisecond) // it is looked for meanwhile
				if n := shims[1].inside("C_Initialize"); n != 1 {
					t.Errorf("%d calls hang in its library, not one", n)
				}
			}
			let()
			eventually(t, func() bool { return root.Tokens()[1].Works })
			useGroup(t, root, handle)
			ok(t, root.Close())
		})
	}
}

// One library that hangs stops none of another's users from beginning and ending.
func TestHS16_ALibraryThatHangsDelaysNoOther(t *testing.T) {
	one, cfgOne := shimmed(t)
	_, cfgTwo := shimmed(t)
	before := hsmOpen(t, cfgTwo)
	let := one.held("C_Initialize", fault{})
	opened := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		_, err := hsm.Open(ctx, cfgOne, quiet())
		opened <- err
	}()
	waitFor(t, func() bool { return one.inside("C_Initialize") == 1 })
	soon(t, 3*time.Second, "what was done with another library", func() {
		if err := before.Close(); err != nil {
			t.Error(err)
		}
		if r, err := hsm.Open(t.Context(), cfgTwo, quiet()); err != nil {
			t.Error(err)
		} else if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	cancel()
	soon(t, time.Second, "Open", func() {
		if err := <-opened; !errors.Is(err, kms.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("error is %v", err)
		}
	})
	let()
	waitFor(t, func() bool { return one.inside("C_Initialize") == 0 })
}

// A library that hangs is an error in time where there is no other token. It costs one
// thread however often it is tried, and nothing of what it did late stays.
func TestHS06_ALibraryThatHangsIsAnErrorInTime(t *testing.T) {
	for _, function := range []string{"C_Initialize", "C_Finalize"} { // C_Finalize: private keys are to be used
		t.Run(function, func(t *testing.T) {
			s, cfg := shimmed(t)
			cfg.Signs = true
			let := s.held(function, fault{})
			for range 4 {
				_, err := openWithin(t, cfg, 200*time.Millisecond)
				is(t, err, kms.ErrUnavailable)
				is(t, err, context.DeadlineExceeded)
			}
			if n := s.inside(function); n != 1 {
				t.Errorf("%d calls hang, not one", n)
			}
			let()
			// What was made late is undone: each C_Initialize that worked has its C_Finalize.
			eventually(t, func() bool { return s.inside(function) == 0 && s.calls("C_Finalize") >= s.calls("C_Initialize") })
			eventually(t, func() bool {
				r, err := hsm.Open(t.Context(), cfg, quiet())
				return err == nil && r.Close() == nil
			})
		})
	}
}

// A library that hangs when it is asked for its token is an error in time, too, and costs
// no thread for each try.
func TestHS06_ATokenThatHangsWhenItIsConnectedToIsAnErrorInTime(t *testing.T) {
	s, cfg := shimmed(t)
	cfg.Timeout = 200 * time.Millisecond
	let := s.held("C_OpenSession", fault{})
	for range 8 {
		_, err := openWithin(t, cfg, 200*time.Millisecond)
		is(t, err, kms.ErrUnavailable)
	}
	if n := s.inside("C_OpenSession"); n > 4 {
		t.Errorf("%d calls hang", n)
	}
	let()
	eventually(t, func() bool { return s.inside("C_OpenSession") == 0 && s.calls("C_Finalize") == 1 })
	ok(t, hsmOpen(t, cfg).Close())
}

// A caller whose time is over has nothing begun.
func TestOpenAfterTheEndOfItsTimeBeginsNothing(t *testing.T) {
	s, cfg := shimmed(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 10 {
		_, err := hsm.Open(ctx, cfg, quiet())
		is(t, err, kms.ErrUnavailable)
	}
	if n := s.calls("C_Initialize"); n != 0 {
		t.Errorf("the library was initialised %d times", n)
	}
}

// The same library under another path is the same: its calls that hang are not more.
func TestHS06_TwoPathsOfALibraryThatHangs(t *testing.T) {
	s, cfg := shimmed(t)
	other := cfg
	other.Module = filepath.Join(t.TempDir(), "link.so")
	ok(t, os.Symlink(cfg.Module, other.Module))
	let := s.held("C_Initialize", fault{})
	for range 2 {
		for _, c := range []hsm.Config{cfg, other} {
			_, err := openWithin(t, c, 200*time.Millisecond)
			is(t, err, kms.ErrUnavailable)
		}
	}
	if n := s.inside("C_Initialize"); n != 1 {
		t.Errorf("%d calls hang, not one", n)
	}
	let()
	for _, c := range []hsm.Config{cfg, other} {
		eventually(t, func() bool {
			r, err := hsm.Open(t.Context(), c, quiet())
			return err == nil && r.Close() == nil
		})
	}
	if a, b := s.calls("C_Initialize"), s.calls("C_Finalize"); a != b {
		t.Errorf("it was initialised %d times and finalised %d times", a, b)
	}
}

// Close does not wait for a probe whose library hangs, and what that makes in the end is
// taken back.
func TestHS06_CloseDoesNotWaitForAProbeThatHangs(t *testing.T) {
	for _, function := range []string{"C_Initialize", "C_GetSlotList"} {
		t.Run(function, func(t *testing.T) {
			shims, cfg := pair(t)
			s := shims[1]
			s.unplug()
			root := hsmOpen(t, cfg)
			let := s.held(function, fault{})
			waitFor(t, func() bool { return s.inside(function) > 0 })
			soon(t, 5*time.Second, "Close", func() { _ = root.Close() })
			let()
			eventually(t, func() bool { return s.inside(function) == 0 })
			soon(t, 5*time.Second, "Open", func() {
				if r, err := hsm.Open(t.Context(), cfg, quiet()); err != nil {
					t.Error(err)
				} else if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
			if a, b := s.calls("C_Initialize"), s.calls("C_Finalize"); a != b {
				t.Errorf("the library was initialised %d times and finalised %d times", a, b)
			}
		})
	}
}

// A C_Finalize that fails leaves the library initialised, by this process: it is not
// another's then, which nobody may initialise anew.
func TestHS24_ALibraryThatCannotBeFinalisedIsStillOurs(t *testing.T) {
	f := softhsm.Token(t)
	_, err := hsm.Init(t.Context(), configOf(f))
	ok(t, err)
	g := softhsm.Clone(t, f)
	shims, cfg := pairOf(t, f, g)
	back := g.Remove(t)
	shims[1].fail("C_Finalize", fault{code: pkcs11.CKR_DEVICE_ERROR, times: forever})
	root := hsmtest.Open(t, cfg)
	eventually(t, func() bool { return shims[1].calls("C_Initialize") >= 3 })
	back()
	shims[1].heal()
	eventually(t, func() bool { return root.Tokens()[1].Works })
}

// A C_Initialize may have worked whatever it answers.
func TestHS24_ALibraryIsOursThoughItsInitialisationFailed(t *testing.T) {
	s, cfg := shimmed(t)
	s.fail("C_Initialize", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 1, after: true})
	is(t, refused(t, cfg), kms.ErrUnavailable)
	isOurs(t, s, cfg)
}

// Where private keys are used crypto11 finalizes the library, and does not say what came
// of that.
func TestHS24_ALibraryThatCrypto11CannotFinalizeIsStillOurs(t *testing.T) {
	s, cfg := shimmed(t)
	cfg = signing(t, cfg)
	r := hsmOpen(t, cfg)
	s.fail("C_Finalize", fault{code: pkcs11.CKR_DEVICE_ERROR, times: forever})
	if r.Close() == nil {
		t.Error("Close does not tell that the library was not finalised")
	}
	s.heal()
	isOurs(t, s, cfg)
	r = hsmtest.Open(t, cfg)
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	ok(t, signs(t, key))
}

// isOurs fails if the library that cfg names is taken for another's: it is not
// initialised anew then, nor finalised at the end.
func isOurs(t *testing.T, s *shim, cfg hsm.Config) {
	t.Helper()
	r := hsmOpen(t, cfg)
	f := faulty{shim: s, root: r, handle: newKey(t, r, kms.Encryption)}
	before := s.calls("C_Finalize")
	f.fail("C_GetSlotList", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	f.fail("C_EncryptInit", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	f.encrypt()
	if s.calls("C_Finalize") == before {
		t.Error("the library was not initialised anew")
	}
	before = s.calls("C_Finalize")
	ok(t, r.Close())
	if s.calls("C_Finalize") == before {
		t.Error("the library was not finalised")
	}
}

// What another part of the process initialised it finalizes, too.
func TestHS24_AnothersLibraryIsNotFinalised(t *testing.T) {
	s, cfg := shimmed(t)
	other := pkcs11.New(cfg.Module)
	ok(t, other.Initialize())
	r := hsmOpen(t, cfg)
	ok(t, r.Status(t.Context()))
	ok(t, r.Close())
	with := cfg
	with.Signs = true
	r = hsmOpen(t, with) // works, but for private keys
	_, err := r.Signer(t.Context(), signingKey)
	says(t, err, "another part of this process initialised the module")
	ok(t, r.Close())
	if n := s.calls("C_Finalize"); n != 0 {
		t.Errorf("another's library was finalised %d times", n)
	}
	r = hsmOpen(t, cfg)
	f := faulty{shim: s, root: r, handle: newKey(t, r, kms.Encryption)}
	ok(t, other.Finalize())
	eventually(t, func() bool { return f.root.Status(t.Context()) == nil })
	f.encrypt()
	before := s.calls("C_Finalize")
	ok(t, r.Close()) // which has initialised it
	if n := s.calls("C_Finalize") - before; n != 1 {
		t.Errorf("the library was finalised %d times, not once", n)
	}
}
