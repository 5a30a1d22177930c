package hsm_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

func TestCloseDoesNotWaitForACallThatHangs(t *testing.T) {
	s, cfg := shimmed(t)
	r, err := hsm.Open(t.Context(), cfg, quiet())
	ok(t, err)
	handle := newKey(t, r, kms.Encryption)
	s.fail("C_Encrypt", fault{sleep: time.Hour})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := r.Encrypt(t.Context(), handle, nil, nil); !errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("error is %v", err)
		}
	})
	waitFor(t, func() bool { return s.inside("C_Encrypt") == 1 })
	start := time.Now()
	if err := r.Close(); err == nil {
		t.Error("Close does not tell of the call that hangs")
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	if got := s.calls("C_Finalize"); got != 0 {
		t.Error("the module was finalised under a call")
	}
	s.heal()
	wg.Wait()
	waitFor(t, func() bool { return s.inside("C_Encrypt") == 0 })
	ok(t, hsmOpen(t, cfg).Close()) // the module can be used again, and finalised
	if got := s.calls("C_Finalize"); got != 1 {
		t.Errorf("the module was finalised %d times", got)
	}
}

func hsmOpen(t *testing.T, cfg hsm.Config) *hsm.Root {
	t.Helper()
	r, err := hsm.Open(t.Context(), cfg, quiet())
	ok(t, err)
	return r
}

func TestUseAfterCloseIsUnavailable(t *testing.T) {
	cfg := hsmtest.Config(t)
	r := hsmOpen(t, cfg)
	handle := newKey(t, r, kms.Encryption)
	ok(t, r.Close())
	_, err := r.Encrypt(t.Context(), handle, nil, nil)
	is(t, err, kms.ErrUnavailable)
	is(t, r.Status(t.Context()), kms.ErrUnavailable)
}

func TestCloseUnderLoad(t *testing.T) {
	cfg := hsmtest.Config(t)
	for range 5 {
		r := hsmOpen(t, cfg)
		handle := newKey(t, r, kms.Encryption)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := r.Encrypt(t.Context(), handle, nil, nil); err != nil && !errors.Is(err, kms.ErrUnavailable) {
						t.Error(err)
						return
					}
				}
			})
		}
		time.Sleep(20 * time.Millisecond)
		ok(t, r.Close())
		close(stop)
		wg.Wait()
	}
}

// HS-24: a module is initialised and finalised many times in one process.
func TestHS24_OpenAndCloseManyTimes(t *testing.T) {
	cfg := hsmtest.Config(t)
	for range 50 {
		r := hsmOpen(t, cfg)
		ok(t, r.Status(t.Context()))
		ok(t, r.Close())
	}
}

func TestCloseTwice(t *testing.T) {
	r := hsmOpen(t, hsmtest.Config(t))
	ok(t, r.Close())
	ok(t, r.Close())

	s, cfg := shimmed(t)
	r = hsmOpen(t, cfg)
	s.fail("C_Finalize", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 1})
	first := r.Close()
	if second := r.Close(); first == nil || !errors.Is(second, first) {
		t.Errorf("Close returned %v, and then %v", first, second)
	}
	ok(t, hsmOpen(t, cfg).Close()) // and finalises what other tests use
}
