package hsm_test

import (
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

// eachIsolation runs a test with the module in this process and in a worker.
func eachIsolation(t *testing.T, test func(t *testing.T, s *shim, cfg hsm.Config)) {
	for _, isolation := range []string{"in-process", hsm.IsolationWorker} {
		t.Run(isolation, func(t *testing.T) {
			s, cfg := residentShim(t)
			cfg.Isolation = isolation
			test(t, s, cfg)
		})
	}
}

// One call that hangs does not end the making and destroying of keys: a worker is
// replaced, and in this process the others go on without it.
func TestHS06_AHungMakingStopsNoOther(t *testing.T) {
	eachIsolation(t, func(t *testing.T, s *shim, cfg hsm.Config) {
		cfg.Timeout = 300 * time.Millisecond
		r := hsmtest.Open(t, cfg)
		first, second := newKey(t, r, kms.Encryption), newKey(t, r, kms.Encryption)
		for _, function := range []string{"C_GenerateKey", "C_DestroyObject"} {
			before := r.Stats().Restarts
			t.Cleanup(func() { s.free(function) })
			s.fail(function, fault{hold: true})
			if function == "C_GenerateKey" {
				_, err := r.NewKey(t.Context(), kms.KeyID{1}, kms.Encryption)
				is(t, err, kms.ErrUnavailable)
			} else {
				is(t, r.DestroyKey(t.Context(), second), kms.ErrUnavailable)
			}
			s.heal() // of what has begun the call hangs on
			waitFor(t, func() bool {
				made, err := r.NewKey(t.Context(), kms.KeyID{1}, kms.Encryption)
				return err == nil && r.DestroyKey(t.Context(), made) == nil
			})
			if cfg.Isolation == hsm.IsolationWorker {
				waitFor(t, func() bool { return r.Stats().Restarts > before })
			} else if s.inside(function) != 1 {
				t.Errorf("%d calls of %s hang", s.inside(function), function)
			}
			_, err := r.Encrypt(t.Context(), first, nil, nil)
			ok(t, err)
			s.free(function)
		}
		waitFor(t, func() bool { return r.DestroyKey(t.Context(), second) == nil })
		waitFor(t, func() bool { return len(residents(t, cfg)) == 1 })
		are(t, residents(t, cfg), first)
	})
}

// In this process no more calls hang than there are spares, so that all else is served.
func TestHS06_MakingThatAlwaysHangsTakesNoSession(t *testing.T) {
	s, cfg := residentShim(t)
	cfg.Timeout, cfg.Sessions = 400*time.Millisecond, 2 // and as many spares
	r := hsmtest.Open(t, cfg)
	handle := newKey(t, r, kms.Encryption)
	t.Cleanup(func() { s.free("C_GenerateKey") })
	s.fail("C_GenerateKey", fault{hold: true})
	most := 0
	for range 8 {
		_, err := r.NewKey(t.Context(), kms.KeyID{2}, kms.Encryption)
		is(t, err, kms.ErrUnavailable)
		_, err = r.Encrypt(t.Context(), handle, nil, nil)
		ok(t, err)
		most = max(most, s.inside("C_GenerateKey"))
	}
	if most != 2 {
		t.Errorf("%d calls hang, not as many as there are spares", most)
	}
	s.heal()
	s.free("C_GenerateKey")
	waitFor(t, func() bool { return len(residents(t, cfg)) == 1 })
	waitFor(t, func() bool { _, err := r.NewKey(t.Context(), kms.KeyID{2}, kms.Encryption); return err == nil })
}
