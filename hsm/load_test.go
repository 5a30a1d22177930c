package hsm_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

func TestLoadedKeysAreBounded(t *testing.T) {
	s, cfg := shimmed(t)
	cfg.Keys = 3
	r := hsmtest.Open(t, cfg)
	// Of these calls some fail, as they should: what the token refuses is tried.
	objects := func() int { return s.calls("C_UnwrapKey") + s.calls("C_GenerateKey") - s.calls("C_DestroyObject") }
	before := objects()
	handles, ciphertexts := make([][]byte, 10), make([][]byte, 10)
	for i := range handles {
		handles[i] = newKey(t, r, kms.Encryption)
		var err error
		ciphertexts[i], err = r.Encrypt(t.Context(), handles[i], []byte{byte(i)}, nil)
		ok(t, err)
	}
	for range 3 {
		for i := range handles {
			got, err := r.Decrypt(t.Context(), handles[i], ciphertexts[i], nil)
			ok(t, err)
			if !bytes.Equal(got, []byte{byte(i)}) {
				t.Errorf("key %d: plaintext %v", i, got)
			}
		}
	}
	if got := r.Stats().LoadedKeys; got > 3 {
		t.Errorf("%d keys are loaded, not at most 3", got)
	}
	// Every object that was made but those of the last three keys and what waits
	// for the next load is destroyed.
	if left := objects() - before; left > 5 {
		t.Errorf("%d session objects are left", left)
	}
}

func TestEvictionUnderLoad(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.Keys = 2
	r := hsmtest.Open(t, cfg)
	handles := make([][]byte, 6)
	for i := range handles {
		handles[i] = newKey(t, r, kms.Encryption)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for n := range 100 {
				handle := handles[(i+n)%len(handles)]
				plaintext := fmt.Appendf(nil, "%d %d", i, n)
				ciphertext, err := r.Encrypt(t.Context(), handle, plaintext, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if got, err := r.Decrypt(t.Context(), handle, ciphertext, nil); err != nil || !bytes.Equal(got, plaintext) {
					t.Errorf("plaintext %q, %v", got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestOneLoadForManyCallers(t *testing.T) {
	s, cfg := shimmed(t)
	r := hsmtest.Open(t, cfg)
	handle := newKey(t, r, kms.Encryption)
	before := s.calls("C_UnwrapKey")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := r.Encrypt(t.Context(), handle, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := s.calls("C_UnwrapKey") - before; got != 1 {
		t.Errorf("the key was loaded %d times", got)
	}
}

// miekg/pkcs11 leaks its buffer of 4 KiB on each failed decryption: 40 MiB here.
func TestBadCiphertextsDoNotGrowTheProcess(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's own memory grows with the goroutines of the tests before")
	}
	r := hsmtest.Root(t)
	handle := newKey(t, r, kms.Encryption)
	bad, err := r.Encrypt(t.Context(), handle, make([]byte, kms.MaxRootPlaintext), nil)
	ok(t, err)
	bad[20] ^= 1
	refuse := func(n int) {
		for range n {
			if _, err := r.Decrypt(t.Context(), handle, bad, nil); !errors.Is(err, kms.ErrCiphertext) {
				t.Fatal(err)
			}
		}
	}
	refuse(500)
	before := resident(t)
	refuse(10_000)
	if grown := resident(t) - before; grown > 8<<20 {
		t.Errorf("10,000 bad ciphertexts left %d KiB", grown>>10)
	}
}

// resident returns the bytes of memory of this process, less what Go has free.
func resident(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory()
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip(err)
	}
	var size, pages int64
	_, err = fmt.Sscan(string(raw), &size, &pages)
	ok(t, err)
	return pages * int64(os.Getpagesize())
}

func BenchmarkEncrypt(b *testing.B) {
	r := hsmtest.Root(b)
	handle, err := r.NewKey(b.Context(), kms.KeyID{1}, kms.Encryption)
	if err != nil {
		b.Fatal(err)
	}
	plaintext := make([]byte, 32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.Encrypt(b.Context(), handle, plaintext, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecrypt(b *testing.B) {
	r := hsmtest.Root(b)
	handle, err := r.NewKey(b.Context(), kms.KeyID{1}, kms.Encryption)
	if err != nil {
		b.Fatal(err)
	}
	ciphertext, err := r.Encrypt(b.Context(), handle, make([]byte, 32), nil)
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.Decrypt(b.Context(), handle, ciphertext, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestKeysAreLoadedAtTheSameTime(t *testing.T) {
	s, cfg := shimmed(t)
	first := hsmtest.Open(t, cfg)
	handles := make([][]byte, 8)
	for i := range handles {
		handles[i] = newKey(t, first, kms.Encryption)
	}
	r := hsmtest.Open(t, cfg)
	s.fail("C_UnwrapKey", fault{sleep: 300 * time.Millisecond})
	begin := time.Now()
	var wg sync.WaitGroup
	for _, handle := range handles {
		wg.Go(func() {
			if _, err := r.Encrypt(t.Context(), handle, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(begin); took > 5*300*time.Millisecond {
		t.Errorf("8 loads of 300 ms with 4 sessions took %v", took)
	}
	if got := r.Stats().LoadedKeys; got != len(handles) {
		t.Errorf("%d keys are loaded", got)
	}
	s.heal()
	ok(t, r.Status(t.Context()))
}
