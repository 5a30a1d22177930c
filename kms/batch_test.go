package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// contexts returns n contexts that differ.
func contexts(n int) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = fmt.Appendf(nil, "object %d", i)
	}
	return all
}

// drained returns copies of what a batch holds.
func drained(b *kms.Batch) (deks, ciphertexts [][]byte) {
	for dek, c := range b.All() {
		deks, ciphertexts = append(deks, bytes.Clone(dek)), append(ciphertexts, bytes.Clone(c))
	}
	return deks, ciphertexts
}

func TestABatchIsDEKsThatOpenOneByOneAndTogether(t *testing.T) { inModes(t, testBatch) }

func testBatch(t *testing.T, k *kms.KMS, mode envelope.Mode) {
	info, err := k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	const n = 150 // more than one chunk
	ads := contexts(n)
	b, use, err := k.GenerateDataKeys(t.Context(), "a", n, ads)
	ok(t, err)
	if want := (kms.Use{KeyID: info.ID, Version: 1, Mode: mode}); use != want || b.Len() != n {
		t.Errorf("use is %+v, not %+v, of %d DEKs", use, want, b.Len())
	}
	sizes := slices.Collect(b.CiphertextSizes())
	deks, ciphertexts := drained(b)
	sealed := make([]kms.Sealed, n)
	seen := make(map[string]bool)
	for i := range ciphertexts {
		if len(deks[i]) != kms.DataKeySize || seen[string(deks[i])] || len(ciphertexts[i]) != sizes[i] {
			t.Fatalf("DEK %d has %d bytes, came before: %t, a ciphertext of %d bytes and not %d", i, len(deks[i]), seen[string(deks[i])], len(ciphertexts[i]), sizes[i])
		}
		seen[string(deks[i])] = true
		sealed[i] = kms.Sealed{Ciphertext: ciphertexts[i], AdditionalData: ads[i]}
		got, _, err := k.Decrypt(t.Context(), "a", ciphertexts[i], ads[i])
		ok(t, err)
		if !bytes.Equal(got, deks[i]) {
			t.Fatalf("DEK %d decrypts to something else", i)
		}
	}
	opened, use, err := k.DecryptBatch(t.Context(), "a", sealed)
	ok(t, err)
	if use != (kms.Use{KeyID: info.ID, Version: 1, Mode: mode}) || len(opened) != n {
		t.Errorf("use is %+v, %d were opened", use, len(opened))
	}
	for i, o := range opened {
		if o.Err != nil || !bytes.Equal(o.Plaintext, deks[i]) {
			t.Fatalf("DEK %d: error %v, or something else", i, o.Err)
		}
	}
}

func TestABatchOfOneContextBindsAllToIt(t *testing.T) {
	n := newBranchNode(t, nil)
	b, _, err := n.GenerateDataKeys(t.Context(), "a", 3, [][]byte{[]byte("ctx")})
	ok(t, err)
	deks, ciphertexts := drained(b)
	for i := range deks {
		opens(t, n.KMS, deks[i], ciphertexts[i])
	}
	if len(deks) != 3 {
		t.Errorf("%d DEKs", len(deks))
	}
}

func TestABatchHasLimits(t *testing.T) {
	n := newBranchNode(t, nil)
	for _, c := range []struct{ n, contexts int }{{-1, 0}, {kms.MaxBatch + 1, 0}, {3, 2}, {1, 3}} {
		_, _, err := n.GenerateDataKeys(t.Context(), "a", c.n, contexts(c.contexts))
		is(t, err, kms.ErrUnsupported)
	}
	_, _, err := n.DecryptBatch(t.Context(), "a", make([]kms.Sealed, kms.MaxBatch+1))
	is(t, err, kms.ErrUnsupported)
	b, _, err := n.GenerateDataKeys(t.Context(), "a", 0, nil)
	ok(t, err)
	if deks, _ := drained(b); len(deks) != 0 {
		t.Errorf("%d DEKs of none", len(deks))
	}
	_, _, err = n.GenerateDataKeys(t.Context(), "none", 1, nil)
	is(t, err, kms.ErrKeyNotFound)
	_, _, err = n.DecryptBatch(t.Context(), "none", nil)
	is(t, err, kms.ErrKeyNotFound)
}

func TestABatchUsesAsManyBranchKeysAsItMust(t *testing.T) {
	n := newBranchNode(t, func(c *kms.Config) { c.BranchUses = 40 })
	b, _, err := n.GenerateDataKeys(t.Context(), "a", 150, nil)
	ok(t, err)
	uses := make(map[string]int)
	for _, c := range b.All() {
		_, body, err := envelope.Parse(c)
		ok(t, err)
		wrapped, _, err := envelope.ParseBranch(body)
		ok(t, err)
		uses[string(wrapped)]++
	}
	total := 0
	for _, u := range uses {
		total += u
		if u > 40 {
			t.Errorf("a branch key sealed %d", u)
		}
	}
	if total != 150 {
		t.Errorf("%d DEKs", total)
	}
}

func TestABatchFailsItemByItem(t *testing.T) {
	n := newBranchNode(t, nil)
	dek, good := n.generate(t)
	n.cfg.Mode = envelope.Direct
	directDEK, direct, _, err := n.another(t).GenerateDataKey(t.Context(), "a", []byte("ctx"))
	ok(t, err)
	changed := bytes.Clone(good)
	changed[len(changed)-1] ^= 1
	badWrap := bytes.Clone(good)
	badWrap[envelope.HeaderSize+2] ^= 1
	version2 := bytes.Clone(good)
	version2[23] = 2
	_, err = n.CreateKey(t.Context(), "b", "")
	ok(t, err)
	_, otherKey, _, err := n.GenerateDataKey(t.Context(), "b", []byte("ctx"))
	ok(t, err)
	ctx := []byte("ctx")
	opened, use, err := n.DecryptBatch(t.Context(), "a", []kms.Sealed{
		{good, ctx}, {changed, ctx}, {good, []byte("other")}, {nil, nil}, {direct, ctx}, {badWrap, ctx}, {version2, ctx}, {otherKey, ctx}, {good[:30], ctx}, {good, ctx},
	})
	ok(t, err)
	for i, o := range opened {
		switch i {
		case 0, 4, 9:
			want := map[int][]byte{0: dek, 4: directDEK, 9: dek}[i]
			if o.Err != nil || !bytes.Equal(o.Plaintext, want) {
				t.Errorf("item %d: %v, or something else", i, o.Err)
			}
		default:
			is(t, o.Err, kms.ErrCiphertext)
			if o.Plaintext != nil {
				t.Errorf("item %d has a plaintext", i)
			}
		}
	}
	if use.Mode != 0 || use.Version != 0 {
		t.Errorf("items of two modes and versions are said to be of %v and %d", use.Mode, use.Version)
	}
}

func TestABatchLooksABranchKeyUpOnce(t *testing.T) {
	n := newBranchNode(t, nil)
	var sealed []kms.Sealed
	for range 1000 {
		_, c := n.generate(t)
		sealed = append(sealed, kms.Sealed{Ciphertext: c, AdditionalData: []byte("ctx")})
	}
	n.cfg.MaxOpened = 1
	other := n.another(t)
	before := n.root.decrypts.Load()
	opened, _, err := other.DecryptBatch(t.Context(), "a", sealed)
	ok(t, err)
	for _, o := range opened {
		ok(t, o.Err)
	}
	if got := n.root.decrypts.Load() - before; got != 1 {
		t.Errorf("%d calls of the root", got)
	}
}

func TestABatchDoesNotAskARootThatIsOutAgainAndAgain(t *testing.T) {
	n := newBranchNode(t, func(c *kms.Config) { c.Mode = envelope.Direct })
	var sealed []kms.Sealed
	for range 200 {
		_, c, _, err := n.GenerateDataKey(t.Context(), "a", nil)
		ok(t, err)
		sealed = append(sealed, kms.Sealed{Ciphertext: c})
	}
	n.root.fail.Store(true)
	n.root.delay.Store(int64(time.Millisecond))
	before := n.root.decrypts.Load()
	opened, _, err := n.DecryptBatch(t.Context(), "a", sealed)
	ok(t, err)
	for _, o := range opened {
		is(t, o.Err, kms.ErrUnavailable)
	}
	if got := n.root.decrypts.Load() - before; got > 20 {
		t.Errorf("%d calls of the root", got)
	}
	_, _, err = n.GenerateDataKeys(t.Context(), "a", 200, nil)
	is(t, err, kms.ErrUnavailable)
}

func TestABatchInAnOutageSaysSo(t *testing.T) {
	n := newBranchNode(t, nil)
	_, c := n.generate(t)
	n.root.fail.Store(true)
	n.clock.advance(kms.DefaultBranchLifetime)
	_, use, err := n.GenerateDataKeys(t.Context(), "a", 10, nil)
	ok(t, err)
	if !use.Outage {
		t.Error("generate does not say that the branch key is past its life")
	}
	opened, use, err := n.DecryptBatch(t.Context(), "a", []kms.Sealed{{c, []byte("ctx")}})
	ok(t, err)
	ok(t, opened[0].Err)
	if !use.Outage {
		t.Error("decrypt does not say that the branch key is past its life")
	}
}

// TestCR13_DEKsOfBatchesDiffer looks at 10^7 DEKs if the environment has
// KEYGATE_LONG, and at fewer if not.
func TestCR13_DEKsOfBatchesDiffer(t *testing.T) {
	n := newBranchNode(t, nil)
	count := many()
	// 64 bits of each: a chance of 3e-6 that two of 10^7 meet.
	seen := make(map[uint64]struct{}, count)
	for len(seen) < count {
		before := len(seen)
		b, _, err := n.GenerateDataKeys(t.Context(), "a", kms.MaxBatch, nil)
		ok(t, err)
		for dek := range b.All() {
			seen[uint64(dek[0])|uint64(dek[5])<<8|uint64(dek[9])<<16|uint64(dek[13])<<24|uint64(dek[17])<<32|uint64(dek[23])<<40|uint64(dek[28])<<48|uint64(dek[31])<<56] = struct{}{}
		}
		if len(seen) != before+kms.MaxBatch {
			t.Fatal("a DEK came twice")
		}
	}
}

// Each node has its own connection to the token, and all end before others take
// their place.
func TestCR17_EachNodeOpensWhatTheOthersMade(t *testing.T) {
	keys := 1000
	if raceEnabled {
		keys = 100
	}
	cfg, store := hsmtest.Config(t), memory.New()
	nodes, stop := startNodes(t, 3, cfg, store)
	name := func(i int) string { return fmt.Sprintf("key-%d", i) }
	type made struct{ dek, ciphertext []byte }
	all := make([]made, 0, keys*len(nodes))
	for i := range keys {
		_, err := nodes[i%len(nodes)].CreateKey(t.Context(), name(i), "")
		ok(t, err)
		for _, k := range nodes {
			dek, c, _, err := k.GenerateDataKey(t.Context(), name(i), []byte(name(i)))
			ok(t, err)
			all = append(all, made{dek, c})
		}
	}
	for _, when := range []string{"before", "after"} {
		for j, k := range nodes {
			for i, m := range all {
				got, _, err := k.Decrypt(t.Context(), name(i/3), m.ciphertext, []byte(name(i/3)))
				if err != nil || !bytes.Equal(got, m.dek) {
					t.Fatalf("%s the restart node %d does not open what node %d made under %s: %v", when, j, i%3, name(i/3), err)
				}
			}
		}
		stop()
		if when == "before" {
			nodes, stop = startNodes(t, 3, cfg, store)
		}
	}
}

// startNodes returns nodes of one cluster, and what ends them.
func startNodes(t *testing.T, n int, cfg hsm.Config, store keystore.Store) (nodes []*kms.KMS, stop func()) {
	t.Helper()
	var roots []*hsm.Root
	for range n {
		root, err := hsm.Open(t.Context(), cfg, quiet())
		ok(t, err)
		k, err := kms.New(config(newClock()), root, store)
		ok(t, err)
		roots, nodes = append(roots, root), append(nodes, k)
	}
	return nodes, func() {
		for _, root := range roots {
			ok(t, root.Close())
		}
	}
}

func BenchmarkBatch(b *testing.B) {
	k, err := kms.New(kms.Config{Cluster: cluster, Logger: quiet()}, hsmtest.Root(b), memory.New())
	if err != nil {
		b.Fatal(err)
	}
	if _, err := k.CreateKey(b.Context(), "a", ""); err != nil {
		b.Fatal(err)
	}
	ads := contexts(1000)
	b.ReportAllocs()
	for b.Loop() {
		batch, _, err := k.GenerateDataKeys(b.Context(), "a", 1000, ads)
		if err != nil {
			b.Fatal(err)
		}
		for range batch.All() {
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "DEKs/s")
}

// A panicking root is one with a bug.
type panicking struct{ kms.Root }

func (panicking) Decrypt(context.Context, []byte, []byte, []byte) ([]byte, error) {
	panic("test: decrypt")
}

func TestAPanicOfTheRootIsAnErrorOfItsItem(t *testing.T) {
	n := newBranchNode(t, nil)
	_, branch := n.generate(t)
	_, err := n.SetMode(t.Context(), "a", envelope.Direct)
	ok(t, err)
	_, direct, _, err := n.GenerateDataKey(t.Context(), "a", []byte("ctx"))
	ok(t, err)
	_, err = n.SetMode(t.Context(), "a", 0)
	ok(t, err)
	k, err := kms.New(n.cfg, panicking{n.root}, n.store)
	ok(t, err)
	opened, _, err := k.DecryptBatch(t.Context(), "a", []kms.Sealed{{direct, []byte("ctx")}, {branch, []byte("ctx")}, {nil, nil}})
	ok(t, err)
	for i, o := range opened[:2] {
		if o.Err == nil || errors.Is(o.Err, kms.ErrCiphertext) || o.Plaintext != nil {
			t.Errorf("item %d: %v", i, o.Err)
		}
	}
	is(t, opened[2].Err, kms.ErrCiphertext)
}
