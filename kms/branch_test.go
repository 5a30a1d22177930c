package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// A watched root counts the calls of a real one and can be told to fail.
type watched struct {
	kms.Root
	encrypts, decrypts, randoms atomic.Int64
	fail                        atomic.Bool
	delay                       atomic.Int64 // of Decrypt and Random
	random                      func(b []byte) error
}

var errOut = fmt.Errorf("test: the root is out: %w", kms.ErrUnavailable)

func (w *watched) Encrypt(ctx context.Context, handle, plaintext, ad []byte) ([]byte, error) {
	w.encrypts.Add(1)
	if w.fail.Load() {
		return nil, errOut
	}
	return w.Root.Encrypt(ctx, handle, plaintext, ad)
}

func (w *watched) Decrypt(ctx context.Context, handle, ciphertext, ad []byte) ([]byte, error) {
	w.decrypts.Add(1)
	time.Sleep(time.Duration(w.delay.Load()))
	if w.fail.Load() {
		return nil, errOut
	}
	return w.Root.Decrypt(ctx, handle, ciphertext, ad)
}

func (w *watched) Random(ctx context.Context, b []byte) error {
	w.randoms.Add(1)
	time.Sleep(time.Duration(w.delay.Load()))
	switch {
	case w.fail.Load():
		return errOut
	case w.random != nil:
		return w.random(b)
	}
	return w.Root.Random(ctx, b)
}

// A branchNode is a KMS in branch mode with one key, "a".
type branchNode struct {
	*kms.KMS
	root  *watched
	clock *clock
	cfg   kms.Config
	store *memory.Store
}

func newBranchNode(t *testing.T, change func(*kms.Config)) *branchNode {
	n := &branchNode{root: &watched{Root: hsmtest.Root(t)}, clock: newClock(), store: memory.New()}
	n.cfg = config(n.clock)
	n.cfg.RecordTTL = 24 * time.Hour
	if change != nil {
		change(&n.cfg)
	}
	n.KMS = n.another(t)
	_, err := n.CreateKey(t.Context(), "a", "")
	ok(t, err)
	return n
}

// another is another node on the same root and store.
func (n *branchNode) another(t *testing.T) *kms.KMS {
	t.Helper()
	k, err := kms.New(n.cfg, n.root, n.store)
	ok(t, err)
	return k
}

func (n *branchNode) generate(t *testing.T) (dek, ciphertext []byte) {
	t.Helper()
	dek, ciphertext, use, err := n.GenerateDataKey(t.Context(), "a", []byte("ctx"))
	ok(t, err)
	if use.Mode != envelope.Branch {
		t.Fatalf("mode is %v", use.Mode)
	}
	return dek, ciphertext
}

func opens(t *testing.T, k *kms.KMS, dek, ciphertext []byte) {
	t.Helper()
	got, _, err := k.Decrypt(t.Context(), "a", ciphertext, []byte("ctx"))
	ok(t, err)
	if !bytes.Equal(got, dek) {
		t.Fatal("decrypts to something else")
	}
}

func TestABranchKeyCostsTheRootThreeCalls(t *testing.T) {
	n := newBranchNode(t, nil)
	n.root.encrypts.Store(0)
	n.root.decrypts.Store(0)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 200 {
				dek, ciphertext := n.generate(t)
				opens(t, n.KMS, dek, ciphertext)
			}
		})
	}
	wg.Wait()
	if e, d, r := n.root.encrypts.Load(), n.root.decrypts.Load(), n.root.randoms.Load(); e != 1 || d != 1 || r != 1 {
		t.Errorf("6,400 DEKs and as many decryptions: %d encrypts, %d decrypts, %d randoms at the root", e, d, r)
	}
}

func TestAnotherNodeOpensWithOneCallHoweverManyWait(t *testing.T) {
	n := newBranchNode(t, nil)
	dek, ciphertext := n.generate(t)
	other := n.another(t)
	n.root.decrypts.Store(0)
	n.root.delay.Store(int64(50 * time.Millisecond))
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() { opens(t, other, dek, ciphertext) })
	}
	wg.Wait()
	opens(t, other, dek, ciphertext)
	if got, said := n.root.decrypts.Load(), other.Stats().BranchMisses; got != 1 || said != 1 {
		t.Errorf("%d calls of the root, and the statistics say %d", got, said)
	}
}

func TestABadWrappedKeyIsABadCiphertext(t *testing.T) {
	n := newBranchNode(t, nil)
	_, ciphertext := n.generate(t)
	other := n.another(t)
	for i := envelope.HeaderSize; i < len(ciphertext); i++ {
		changed := bytes.Clone(ciphertext)
		changed[i] ^= 1
		if _, _, err := other.Decrypt(t.Context(), "a", changed, []byte("ctx")); !errors.Is(err, kms.ErrCiphertext) {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
}

func TestBranchKeysAreReplacedByTimeAndByUses(t *testing.T) {
	wrappedOf := func(c []byte) string {
		_, body, err := envelope.Parse(c)
		ok(t, err)
		w, _, err := envelope.ParseBranch(body)
		ok(t, err)
		return string(w)
	}
	t.Run("time", func(t *testing.T) {
		n := newBranchNode(t, nil)
		_, first := n.generate(t)
		n.clock.advance(kms.DefaultBranchLifetime)
		_, second := n.generate(t)
		if wrappedOf(first) == wrappedOf(second) {
			t.Error("a branch key outlived its time")
		}
	})
	t.Run("uses", func(t *testing.T) {
		n := newBranchNode(t, func(c *kms.Config) { c.BranchUses = 100 })
		uses := make(map[string]int)
		for range 1000 {
			_, c := n.generate(t)
			uses[wrappedOf(c)]++
		}
		for _, u := range uses {
			if u > 100 {
				t.Errorf("a branch key sealed %d DEKs", u)
			}
		}
	})
	t.Run("ahead", func(t *testing.T) {
		n := newBranchNode(t, nil)
		_, first := n.generate(t)
		n.clock.advance(kms.DefaultBranchLifetime * 9 / 10)
		_, now := n.generate(t)
		if wrappedOf(first) != wrappedOf(now) {
			t.Error("a request waited for the next branch key")
		}
		deadline := time.Now().Add(5 * time.Second)
		for {
			if _, c := n.generate(t); wrappedOf(c) != wrappedOf(first) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("no branch key was made ahead")
			}
		}
	})
}

func TestDeletePurgesBranchKeys(t *testing.T) {
	n := newBranchNode(t, nil)
	n.generate(t)
	if got := n.Stats().Branches; got != 1 {
		t.Fatalf("%d branch keys in memory", got)
	}
	_, err := n.DeleteKey(t.Context(), "a")
	ok(t, err)
	if got := n.Stats().Branches; got != 0 {
		t.Errorf("%d branch keys in memory after the key was deleted", got)
	}
}

func TestOpenedBranchKeysAreBoundedAndExpire(t *testing.T) {
	n := newBranchNode(t, func(c *kms.Config) { c.BranchUses, c.MaxOpened = 1, 64 })
	var deks, ciphertexts [][]byte
	for range 300 {
		dek, c := n.generate(t)
		deks, ciphertexts = append(deks, dek), append(ciphertexts, c)
	}
	other := n.another(t)
	for i := range deks {
		opens(t, other, deks[i], ciphertexts[i])
	}
	if got := other.Stats().Branches; got > 64 {
		t.Errorf("%d branch keys in memory, not at most 64", got)
	}
	last := len(deks) - 1
	before := n.root.decrypts.Load()
	opens(t, other, deks[last], ciphertexts[last])
	if n.root.decrypts.Load() != before {
		t.Error("the newest was not kept")
	}
	n.clock.advance(kms.DefaultBranchLifetime)
	opens(t, other, deks[last], ciphertexts[last])
	if n.root.decrypts.Load() != before+1 {
		t.Error("an opened branch key outlived its time")
	}
}

func TestOutage(t *testing.T) {
	t.Run("goes on for the window, counted from its beginning", func(t *testing.T) {
		n := newBranchNode(t, nil)
		dek, ciphertext := n.generate(t)
		n.root.fail.Store(true)
		n.clock.advance(kms.DefaultBranchLifetime)
		n.generate(t)
		opens(t, n.KMS, dek, ciphertext)
		if n.Stats().OutageUses == 0 {
			t.Error("no use in the outage was counted")
		}
		n.clock.advance(kms.DefaultOutage - time.Second)
		n.generate(t)
		opens(t, n.KMS, dek, ciphertext)
		n.clock.advance(2 * time.Second)
		_, _, _, err := n.GenerateDataKey(t.Context(), "a", nil)
		is(t, err, kms.ErrUnavailable)
		_, _, err = n.Decrypt(t.Context(), "a", ciphertext, []byte("ctx"))
		is(t, err, kms.ErrUnavailable)

		n.root.fail.Store(false)
		n.generate(t)
		opens(t, n.KMS, dek, ciphertext)
		if out := n.Stats().Outage; out != 0 {
			t.Errorf("still out, for %v", out)
		}
	})
	t.Run("is waited for once, and asked beside requests after that", func(t *testing.T) {
		n := newBranchNode(t, nil)
		dek, ciphertext := n.generate(t)
		n.root.fail.Store(true)
		n.root.delay.Store(int64(200 * time.Millisecond))
		n.clock.advance(kms.DefaultBranchLifetime)
		n.generate(t)
		begin, asked := time.Now(), n.root.randoms.Load()+n.root.decrypts.Load()
		for range 100 {
			n.generate(t)
			opens(t, n.KMS, dek, ciphertext)
		}
		if took := time.Since(begin); took > 150*time.Millisecond {
			t.Errorf("200 operations in a known outage took %v", took)
		}
		if n := n.root.randoms.Load() + n.root.decrypts.Load() - asked; n > 2 {
			t.Errorf("the root was asked %d times", n)
		}
		n.root.fail.Store(false)
		n.root.delay.Store(0)
		for end := time.Now().Add(5 * time.Second); n.Stats().Outage != 0; time.Sleep(10 * time.Millisecond) {
			n.generate(t)
			if time.Now().After(end) {
				t.Fatal("the outage goes on when the root is back")
			}
		}
	})
	t.Run("ends with a status that is good", func(t *testing.T) {
		n := newBranchNode(t, nil)
		n.generate(t)
		n.clock.advance(kms.DefaultBranchLifetime)
		n.root.fail.Store(true)
		n.generate(t)
		n.root.fail.Store(false)
		if s := n.Status(t.Context()); s.Root != nil || n.Stats().Outage != 0 {
			t.Errorf("root: %v; out for %v", s.Root, n.Stats().Outage)
		}
		n.clock.advance(kms.DefaultOutage)
		n.root.fail.Store(true)
		n.generate(t)
	})
	t.Run("forbidden", func(t *testing.T) {
		n := newBranchNode(t, func(c *kms.Config) { c.Outage = -1 })
		n.generate(t)
		n.root.fail.Store(true)
		n.clock.advance(kms.DefaultBranchLifetime)
		_, _, _, err := n.GenerateDataKey(t.Context(), "a", nil)
		is(t, err, kms.ErrUnavailable)
	})
	t.Run("a branch key in its life needs no root", func(t *testing.T) {
		n := newBranchNode(t, nil)
		n.generate(t)
		n.root.fail.Store(true)
		n.generate(t)
	})
}

func TestCR18_ARandomSourceThatFailsMakesNoKey(t *testing.T) {
	for name, random := range map[string]func([]byte) error{
		"fails":    func([]byte) error { return errOut },
		"constant": func(b []byte) error { clear(b); return nil },
		"ones": func(b []byte) error {
			for i := range b {
				b[i] = 0xff
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newBranchNode(t, nil)
			n.root.random = random
			_, _, _, err := n.GenerateDataKey(t.Context(), "a", nil)
			is(t, err, kms.ErrUnavailable)
			if n.Stats().BranchesMade != 0 {
				t.Error("a branch key was made")
			}
		})
	}
}

func TestDirectModeKeepsNoKeyInMemory(t *testing.T) {
	branch := newBranchNode(t, nil)
	dek, ciphertext := branch.generate(t)
	branch.cfg.Mode = envelope.Direct
	direct := branch.another(t)
	before := branch.root.decrypts.Load()
	opens(t, direct, dek, ciphertext)
	opens(t, direct, dek, ciphertext)
	if got := branch.root.decrypts.Load() - before; got != 2 {
		t.Errorf("2 decryptions were %d calls of the root", got)
	}
	if got := direct.Stats().Branches; got != 0 {
		t.Errorf("%d branch keys in memory", got)
	}
}

// many is 10^7 if the environment has KEYGATE_LONG, and less if not.
func many() int {
	switch {
	case os.Getenv("KEYGATE_LONG") != "":
		return 10_000_000
	case raceEnabled:
		return 200_000
	}
	return 1_000_000
}

// TestCR03_NoncesDiffer looks at 10^7 nonces, for some 20 seconds, if the
// environment has KEYGATE_LONG, and at fewer if not.
func TestCR03_NoncesDiffer(t *testing.T) {
	n := newBranchNode(t, nil)
	count := many()
	// 64-bit hashes of 12-byte nonces: a chance of 3e-6 that two of 10^7 meet.
	seen := make(map[uint64]struct{}, count)
	for range count {
		_, c, _, err := n.GenerateDataKey(t.Context(), "a", nil)
		ok(t, err)
		nonce := c[len(c)-48-12:]
		h := uint64(0)
		for _, b := range nonce[:8] {
			h = h<<8 | uint64(b)
		}
		h ^= uint64(nonce[8])<<32 | uint64(nonce[9])<<40 | uint64(nonce[10])<<48 | uint64(nonce[11])<<56
		if _, twice := seen[h]; twice {
			t.Fatal("a nonce came twice")
		}
		seen[h] = struct{}{}
	}
}

func BenchmarkGenerateDataKey(b *testing.B) {
	root := hsmtest.Root(b)
	k, err := kms.New(kms.Config{Cluster: cluster, Logger: quiet()}, root, memory.New())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := k.CreateKey(b.Context(), "a", ""); err != nil {
		b.Fatal(err)
	}
	context := []byte(`{"bucket":"bucket/object"}`)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, _, err := k.GenerateDataKey(b.Context(), "a", context); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestAnOwnBranchKeyPastItsLifeIsOpenedOnce, though it stays for an outage.
func TestAnOwnBranchKeyPastItsLifeIsOpenedOnce(t *testing.T) {
	for _, evicted := range []bool{false, true} {
		n := newBranchNode(t, func(cfg *kms.Config) { cfg.MaxOpened = 1 })
		dek, ciphertext := n.generate(t)
		if evicted {
			_, err := n.CreateKey(t.Context(), "b", "")
			ok(t, err)
			_, _, _, err = n.GenerateDataKey(t.Context(), "b", nil)
			ok(t, err)
		}
		n.clock.advance(kms.DefaultBranchLifetime + time.Minute)
		n.root.decrypts.Store(0)
		for range 3 {
			opens(t, n.KMS, dek, ciphertext)
		}
		if calls := n.root.decrypts.Load(); calls != 1 {
			t.Errorf("evicted %v: %d calls of the root, want 1", evicted, calls)
		}
	}
}

// TestOwnBranchKeysOpenHoweverManyThereAre: those that a node seals with are not
// bounded by MaxOpened, and it need not ask the root for them.
func TestOwnBranchKeysOpenHoweverManyThereAre(t *testing.T) {
	n := newBranchNode(t, func(cfg *kms.Config) { cfg.MaxOpened = 1 })
	ciphertexts := map[string][]byte{}
	for _, name := range []string{"a", "b", "c"} {
		if name != "a" {
			_, err := n.CreateKey(t.Context(), name, "")
			ok(t, err)
		}
		_, c, _, err := n.GenerateDataKey(t.Context(), name, nil)
		ok(t, err)
		ciphertexts[name] = c
	}
	n.root.decrypts.Store(0)
	open := func(name string) {
		t.Helper()
		_, _, err := n.Decrypt(t.Context(), name, ciphertexts[name], nil)
		ok(t, err)
	}
	for name := range ciphertexts {
		open(name)
	}
	if calls := n.root.decrypts.Load(); calls != 0 {
		t.Errorf("%d calls of the root, want none", calls)
	}
	// A purge takes this way, too.
	for _, mode := range []envelope.Mode{envelope.Direct, envelope.Branch} {
		_, err := n.SetMode(t.Context(), "a", mode)
		ok(t, err)
	}
	open("a")
	if calls := n.root.decrypts.Load(); calls != 1 {
		t.Errorf("%d calls of the root after a purge, want 1", calls)
	}
}

// A waiting root waits in Random until it is let go.
type waiting struct {
	kms.Root
	mu   sync.Mutex
	hold chan struct{}
	held chan struct{}
}

func (w *waiting) Random(ctx context.Context, p []byte) error {
	w.mu.Lock()
	hold, held := w.hold, w.held
	w.hold = nil
	w.mu.Unlock()
	if hold != nil {
		close(held)
		<-hold
	}
	return w.Root.Random(ctx, p)
}

// A branch key that is being made while its key is deleted does not stay in memory.
func TestABranchKeyThatIsBeingMadeDoesNotOutliveItsKey(t *testing.T) {
	root := &waiting{Root: hsmtest.Root(t)}
	k, err := kms.New(config(newClock()), root, memory.New())
	ok(t, err)
	_, err = k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	hold, held := make(chan struct{}), make(chan struct{})
	root.hold, root.held = hold, held
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.GenerateDataKey(context.WithoutCancel(t.Context()), "a", nil)
	}()
	<-held
	_, err = k.DeleteKey(t.Context(), "a")
	ok(t, err)
	close(hold)
	<-done
	if n := k.Stats().Branches; n != 0 {
		t.Errorf("%d branch keys of a deleted key are in memory", n)
	}
}

// A late root answers the first Decrypt of a batch only when it is let go.
type late struct {
	kms.Root
	once sync.Once
	hold chan struct{}
	held chan struct{}
}

func (l *late) Decrypt(ctx context.Context, handle, ciphertext, ad []byte) ([]byte, error) {
	l.once.Do(func() { close(l.held); <-l.hold })
	return l.Root.Decrypt(ctx, handle, ciphertext, ad)
}

// Branch keys of a batch that are opened after the key was deleted do not stay in
// memory, either.
func TestABatchKeepsNoBranchKeyOfADeletedKey(t *testing.T) {
	store, root := memory.New(), hsmtest.Root(t)
	cfg := config(newClock())
	cfg.BranchUses = 1
	one, err := kms.New(cfg, root, store)
	ok(t, err)
	_, err = one.CreateKey(t.Context(), "a", "")
	ok(t, err)
	var batch []kms.Sealed
	for range 20 {
		_, c, _, err := one.GenerateDataKey(t.Context(), "a", nil)
		ok(t, err)
		batch = append(batch, kms.Sealed{Ciphertext: c})
	}
	l := &late{Root: root, hold: make(chan struct{}), held: make(chan struct{})}
	two, err := kms.New(config(newClock()), l, store)
	ok(t, err)
	_, err = two.DescribeKey(t.Context(), "a")
	ok(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		two.DecryptBatch(context.WithoutCancel(t.Context()), "a", batch)
	}()
	<-l.held
	_, err = two.DeleteKey(t.Context(), "a")
	ok(t, err)
	close(l.hold)
	<-done
	if n := two.Stats().Branches; n != 0 {
		t.Errorf("%d branch keys of a deleted key are in memory", n)
	}
}

// A spoiling root wraps what it does not open.
type spoiling struct {
	kms.Root
	spoil func(ciphertext []byte) []byte // nil: it is well
}

func (f *spoiling) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	c, err := f.Root.Encrypt(ctx, handle, plaintext, additionalData)
	if err == nil && f.spoil != nil {
		c = f.spoil(c)
	}
	return c, err
}

// All that an hour's branch key seals would be lost with it.
func TestNoBranchKeyIsUsedThatTheRootDoesNotOpen(t *testing.T) {
	root := &spoiling{Root: hsmtest.Root(t)}
	k, err := kms.New(config(newClock()), root, memory.New())
	ok(t, err)
	_, err = k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	var other []byte
	for name, spoil := range map[string]func([]byte) []byte{
		"a bit is wrong": func(c []byte) []byte { c[len(c)-1] ^= 1; return c },
		"cut short":      func(c []byte) []byte { return c[:len(c)-1] },
		"nothing":        func([]byte) []byte { return nil },
		"an older one":   func(c []byte) []byte { defer func() { other = c }(); return other },
	} {
		root.spoil = spoil
		for range 2 {
			_, _, _, err = k.GenerateDataKey(t.Context(), "a", nil)
			if !errors.Is(err, kms.ErrUnavailable) {
				t.Fatalf("%s: error is %v", name, err)
			}
			_, _, err = k.GenerateDataKeys(t.Context(), "a", 3, [][]byte{nil})
			is(t, err, kms.ErrUnavailable)
		}
	}
	root.spoil = nil
	_, c, _, err := k.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	_, _, err = k.Decrypt(t.Context(), "a", c, nil)
	ok(t, err)
}
