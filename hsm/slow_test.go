package hsm_test

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// An HSM that is slow, or of which one call in a hundred is very slow, costs those
// who wait for it, in bounded numbers, and nobody else. Nothing is tried again for
// that it was slow.
func TestHS07_ASlowHSM(t *testing.T) {
	for _, hsm := range []struct {
		name  string
		fault fault
		wait  time.Duration // of the queue; zero: the default, 250 ms
		least int           // calls that must be done in a second
	}{
		{"5 ms", fault{sleep: 5 * time.Millisecond}, 0, 100},
		{"50 ms", fault{sleep: 50 * time.Millisecond}, 0, 20},
		{"500 ms, which counts as stalled", fault{sleep: 500 * time.Millisecond}, 0, 0},
		{"500 ms, where that is known", fault{sleep: 500 * time.Millisecond}, time.Second, 2},
		{"5 s one time in 100", fault{sleep: 5 * time.Second, every: 100}, 0, 50},
	} {
		t.Run(hsm.name, func(t *testing.T) {
			s, cfg := shimmed(t)
			cfg.Queue.Wait = hsm.wait
			f := faulty{shim: s, root: hsmtest.Open(t, cfg)}
			t.Cleanup(s.heal)
			f.handle = newKey(t, f.root, kms.Encryption)
			f.ciphertext = f.encrypt()
			k, err := kms.New(kms.Config{Cluster: kms.ClusterID{1}, Logger: quiet()}, f.root, memory.New())
			ok(t, err)
			_, err = k.CreateKey(t.Context(), "app-1", "admin")
			ok(t, err)
			before := cached(t, k, 300*time.Millisecond)
			calls := f.root.Stats()
			f.fail("C_Encrypt", hsm.fault)
			var done, refused atomic.Int64
			var wg sync.WaitGroup
			end := time.Now().Add(time.Second)
			for range 20 {
				wg.Go(func() {
					for time.Now().Before(end) {
						took, err := f.try(t.Context())
						switch {
						case err == nil:
							done.Add(1)
						case errors.Is(err, kms.ErrUnavailable):
							refused.Add(1)
							time.Sleep(20 * time.Millisecond)
						default:
							t.Error(err)
						}
						if took > time.Second+2*tolerance {
							t.Errorf("it took %v", took)
						}
					}
				})
			}
			during := cached(t, k, time.Second)
			stats := f.root.Stats()
			if stats.Waiting > 20 || stats.Hung > 4+4 {
				t.Errorf("%d calls wait, %d hang", stats.Waiting, stats.Hung)
			}
			wg.Wait()
			stats = f.root.Stats()
			t.Logf("%d done, %d refused, %d tried again; requests in memory: p99 %v before, %v during", done.Load(), refused.Load(), stats.Retries-calls.Retries, before, during)
			if during > max(2*before, 5*time.Millisecond) {
				t.Errorf("p99 of requests in memory is %v, and was %v", during, before)
			}
			if int(done.Load()) < hsm.least {
				t.Errorf("%d calls were done, not %d", done.Load(), hsm.least)
			}
			if again := stats.Retries - calls.Retries; again > (stats.Calls-calls.Calls)/10 {
				t.Errorf("%d of %d calls were tried again", again, stats.Calls-calls.Calls)
			}
			f.heal()
			f.recovers()
		})
	}
}

// HS-11: the connection to a network HSM is half open, so what was under way never
// ends, and what begins later works. It is a shim that holds the calls, since nothing
// here carries PKCS#11 over a network.
func TestHS11_CallsOfAHalfOpenConnectionNeverEnd(t *testing.T) {
	f := openFaulty(t)
	inFlight := []string{"C_Encrypt", "C_Decrypt", "C_Sign", "C_GenerateRandom"}
	held := func() (n int) {
		for _, function := range inFlight {
			n += f.inside(function)
		}
		return n
	}
	t.Cleanup(func() {
		for _, function := range inFlight {
			f.free(function)
		}
	})
	threads := osThreads(t)
	for _, function := range inFlight {
		f.fail(function, fault{hold: true})
	}
	var wg sync.WaitGroup
	for _, call := range []func() error{
		func() error { _, err := f.try(t.Context()); return err },
		f.decrypt,
		func() error { _, err := f.root.MAC(t.Context(), nil, nil); return err },
		func() error { return f.root.Random(t.Context(), make([]byte, 32)) },
	} {
		wg.Go(func() {
			begin := time.Now()
			if err := call(); !errors.Is(err, kms.ErrUnavailable) {
				t.Errorf("error is %v", err)
			}
			if took := time.Since(begin); took > time.Second+2*tolerance {
				t.Errorf("a caller waited for %v", took)
			}
		})
	}
	wg.Wait()
	if n := held(); n != 4 {
		t.Errorf("%d calls are in the module, not one on each session", n)
	}
	f.heal() // the network is back; what was under way is lost
	f.recovers()
	for range 20 {
		f.encrypt()
	}
	if n, s := held(), f.root.Stats(); n != 4 || s.Hung != 4 {
		t.Errorf("%d calls hang, %d of them are written off, not 4", n, s.Hung)
	}
	if n := osThreads(t); n > threads+4+32 {
		t.Errorf("%d threads, %d before", n, threads)
	}
	for _, function := range inFlight {
		f.free(function)
	}
	waitFor(t, func() bool { return f.root.Stats().Hung == 0 })
	ok(t, f.decrypt())
}

// With KEYGATE_LONG=1: the connection became half open while the root was connecting.
// The attempt is given up after 10 s, and another one is made.
func TestHS11_AnAttemptToConnectThatNeverEnds(t *testing.T) {
	if os.Getenv("KEYGATE_LONG") != "1" {
		t.Skip("KEYGATE_LONG=1 runs it, for 11 s")
	}
	f := openFaulty(t)
	t.Cleanup(func() { f.free("C_FindObjects") })
	f.fail("C_FindObjects", fault{hold: true})
	f.fail("C_EncryptInit", fault{code: ckrUserNotLoggedIn, times: 1})
	_, err := f.try(t.Context())
	is(t, err, kms.ErrUnavailable)
	f.heal()
	begin := time.Now()
	for f.decrypt() != nil && time.Since(begin) < 15*time.Second {
		time.Sleep(50 * time.Millisecond)
	}
	if took := time.Since(begin); took > 11*time.Second {
		t.Errorf("it works %v after the network is back", took)
	}
	f.free("C_FindObjects")
	f.recovers()
}

// HS-19: no answer, and no time that an answer takes, tells in what a ciphertext is
// wrong.
func TestHS19_OneAnswerToAllBadCiphertexts(t *testing.T) {
	f := openFaulty(t)
	plaintext := bytes.Repeat([]byte("0123456789abcdef"), 16)
	good, err := f.root.Encrypt(t.Context(), f.handle, plaintext, []byte("additional data"))
	ok(t, err)
	n := len(good)
	changed := func(at int) []byte {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		return bad
	}
	bad := []struct {
		what       string
		ciphertext []byte
		ad         string
	}{
		{"first byte of the IV", changed(0), "additional data"},
		{"first byte", changed(12), "additional data"},
		{"last byte before the tag", changed(n - 17), "additional data"},
		{"first byte of the tag", changed(n - 16), "additional data"},
		{"last byte of the tag", changed(n - 1), "additional data"},
		{"additional data", good, "additional dat."},
		{"no additional data", good, ""},
		{"a block less", good[:n-16], "additional data"},
		{"a block more", append(bytes.Clone(good), make([]byte, 16)...), "additional data"},
		{"a byte less", good[:n-1], "additional data"},
	}
	const rounds = 60
	texts, best := map[string]bool{}, make([]time.Duration, len(bad))
	for i := range best {
		best[i] = time.Hour
	}
	for range rounds {
		for i, b := range bad {
			begin := time.Now()
			_, err := f.root.Decrypt(t.Context(), f.handle, b.ciphertext, []byte(b.ad))
			best[i] = min(best[i], time.Since(begin))
			is(t, err, kms.ErrCiphertext)
			texts[err.Error()] = true
		}
	}
	if len(texts) != 1 {
		t.Errorf("the errors differ: %v", texts)
	}
	fastest, slowest := best[0], best[0]
	for i, b := range bad {
		fastest, slowest = min(fastest, best[i]), max(slowest, best[i])
		t.Logf("%-26s %v", b.what, best[i])
	}
	if slowest > 2*fastest {
		t.Errorf("the fastest answer takes %v, the slowest %v", fastest, slowest)
	}
}
