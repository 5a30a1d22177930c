package hsm_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// slowOperations are what a data key costs an HSM when nothing is in memory.
var slowOperations = []string{"C_UnwrapKey", "C_Decrypt", "C_Sign", "C_GenerateRandom", "C_Encrypt"}

// A node starts with an empty cache, and all clients are there at once. With
// KEYGATE_LONG they are 10,000, with 1,000 keys.
func TestLD09_AColdStartHerdLoadsEachKeyOnce(t *testing.T) {
	keys, clients, most := 100, 1000, 5*time.Second
	if os.Getenv("KEYGATE_LONG") != "" {
		keys, clients, most = 1000, 10_000, 10*time.Second
	}
	s, cfg := shimmed(t)
	cfg.Sessions, cfg.Timeout = 16, 2*time.Second
	store := memory.New()
	createKeys(t, newKMS(t, hsmtest.Open(t, cfg), store), keys)
	root := hsmtest.Open(t, cfg)
	k := newKMS(t, root, store)
	for _, function := range slowOperations {
		s.fail(function, fault{sleep: 20 * time.Millisecond})
	}
	before := s.tally()
	took, refused := herd(t, k, keys, clients)
	for i, n := range s.tally() {
		t.Logf("%d %s", n-before[i], slowOperations[i])
		before[i] = n - before[i]
	}
	t.Logf("%d clients had a data key of one of %d keys after %v; %d tries were refused", clients, keys, took, refused)
	// Each key and each branch key is tried once.
	if before[0] != keys || before[1] != 2*keys {
		t.Errorf("%d keys were unwrapped %d times, and tried with their branch keys %d times", keys, before[0], before[1])
	}
	if got := root.Stats().LoadedKeys; got != keys {
		t.Errorf("%d keys are loaded", got)
	}
	if took > most {
		t.Errorf("it took %v, not at most %v", took, most)
	}
	before = s.tally()
	if _, refused := herd(t, k, keys, clients); refused != 0 {
		t.Errorf("%d tries were refused when all was in memory", refused)
	}
	if after := s.tally(); after != before {
		t.Errorf("the second time cost calls: %v, after %v", after, before)
	}
}

// tally returns how often each of slowOperations was called.
func (s *shim) tally() (all [5]int) {
	for i, function := range slowOperations {
		all[i] = s.calls(function)
	}
	return all
}

func newKMS(t *testing.T, root kms.Root, store *memory.Store) *kms.KMS {
	t.Helper()
	k, err := kms.New(kms.Config{Cluster: kms.ClusterID{1}, Logger: quiet()}, root, store)
	ok(t, err)
	return k
}

func herdKey(i int) string { return fmt.Sprintf("key-%d", i) }

func createKeys(t *testing.T, k *kms.KMS, n int) {
	t.Helper()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range 8 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if _, err := k.CreateKey(t.Context(), herdKey(i), ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// herd has each of many clients ask for one data key at the same time, and ask
// again in 50 ms where it is refused, as an answer of 503 tells it to. It returns
// when the last one had it, and how often one was refused.
func herd(t *testing.T, k *kms.KMS, keys, clients int) (took time.Duration, refused int64) {
	t.Helper()
	var wg sync.WaitGroup
	var n atomic.Int64
	begin := time.Now()
	for i := range clients {
		wg.Go(func() {
			name := herdKey(i % keys)
			for {
				dek, ciphertext, _, err := k.GenerateDataKey(t.Context(), name, nil)
				if errors.Is(err, kms.ErrUnavailable) && time.Since(begin) < time.Minute {
					n.Add(1)
					time.Sleep(50 * time.Millisecond)
					continue
				}
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				if opened, _, err := k.Decrypt(t.Context(), name, ciphertext, nil); err != nil || !bytes.Equal(opened, dek) {
					t.Errorf("client %d: its data key does not open: %v", i, err)
				}
				return
			}
		})
	}
	wg.Wait()
	return time.Since(begin), n.Load()
}
