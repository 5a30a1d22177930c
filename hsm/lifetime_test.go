package hsm_test

import (
	"sync"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

func TestSessionsAreRetiredByAge(t *testing.T) {
	s, cfg := shimmed(t)
	cfg.SessionLifetime = 100 * time.Millisecond
	f := faulty{shim: s, root: hsmtest.Open(t, cfg)}
	f.handle = newKey(t, f.root, kms.Encryption)
	f.ciphertext = f.encrypt()
	opened, closed, unwraps := s.calls("C_OpenSession"), s.calls("C_CloseSession"), s.calls("C_UnwrapKey")
	const last = time.Second
	var wg sync.WaitGroup
	end := time.Now().Add(last)
	for range 8 {
		wg.Go(func() {
			for time.Now().Before(end) {
				if err := f.decrypt(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	opened, closed = s.calls("C_OpenSession")-opened, s.calls("C_CloseSession")-closed
	// 4 sessions, each of which lasts for 80 to 120 ms of a second.
	if most := 4 * 13; opened > most || opened < most/4 || closed < opened-4 {
		t.Errorf("%d sessions were opened and %d closed, not some %d", opened, closed, most)
	}
	if st := f.root.Stats(); st.Connections != 1 || st.Logins != 1 || st.Retries != 0 || st.Sessions > 4+1 {
		t.Errorf("%+v", st)
	}
	if n := s.calls("C_UnwrapKey") - unwraps; n != 0 {
		t.Errorf("%d keys were loaded again: a session that is retired holds none", n)
	}
}

func TestLifetimesDiffer(t *testing.T) {
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := hsm.Jittered(time.Minute)
		if d < 48*time.Second || d > 72*time.Second {
			t.Fatalf("%v of a minute", d)
		}
		least, most = min(least, d), max(most, d)
	}
	if least > 50*time.Second || most < 70*time.Second {
		t.Errorf("they are from %v to %v", least, most)
	}
}
