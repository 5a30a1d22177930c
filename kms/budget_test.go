package kms_test

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// A directNode is a KMS in direct mode with one key, "a", of whose budget left
// operations are not reserved, and none by this node.
func newDirectNode(t *testing.T, left uint64) *branchNode {
	t.Helper()
	n := newBranchNode(t, func(c *kms.Config) { c.Mode = envelope.Direct })
	ok(t, n.SetOperations(t.Context(), "a", kms.MaxOperations-left))
	n.KMS = n.another(t)
	return n
}

func operations(t *testing.T, k *kms.KMS) uint64 {
	t.Helper()
	info, err := k.DescribeKey(t.Context(), "a")
	ok(t, err)
	return info.Operations
}

// spendAll encrypts until it is refused, and returns how often it was not.
func spendAll(t *testing.T, k *kms.KMS) (done int) {
	t.Helper()
	for {
		_, _, _, err := k.GenerateDataKey(t.Context(), "a", nil)
		if errors.Is(err, kms.ErrExhausted) {
			return done
		}
		ok(t, err)
		done++
	}
}

func TestCR04_AVersionEncryptsToItsLimitAndNoMore(t *testing.T) {
	n := newDirectNode(t, 100)
	before := n.root.encrypts.Load()
	_, c, _, err := n.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	if done := spendAll(t, n.KMS); done != 99 {
		t.Errorf("%d more operations, not 99", done)
	}
	if got := n.root.encrypts.Load() - before; got != 100 {
		t.Errorf("the root encrypted %d times", got)
	}
	_, _, err = n.Encrypt(t.Context(), "a", make([]byte, 8192), nil)
	is(t, err, kms.ErrExhausted)
	_, _, err = n.GenerateDataKeys(t.Context(), "a", 1, nil)
	is(t, err, kms.ErrExhausted)
	if _, _, err := n.Decrypt(t.Context(), "a", c, nil); err != nil {
		t.Errorf("it does not decrypt any more: %v", err)
	}
	if got := operations(t, n.KMS); got != kms.MaxOperations {
		t.Errorf("%d operations are reserved", got)
	}
	_, _, _, err = n.another(t).GenerateDataKey(t.Context(), "a", nil)
	is(t, err, kms.ErrExhausted)
}

func TestCR04_ARestartGivesNoOperationTwice(t *testing.T) {
	n := newDirectNode(t, 20_000)
	total := 0
	for range 30 {
		k := n.another(t) // a restart: what was reserved is lost
		for range 10 {
			_, _, _, err := k.GenerateDataKey(t.Context(), "a", nil)
			if errors.Is(err, kms.ErrExhausted) {
				break
			}
			ok(t, err)
			total++
		}
	}
	_, _, _, err := n.another(t).GenerateDataKey(t.Context(), "a", nil)
	is(t, err, kms.ErrExhausted)
	if total == 0 || total > 20_000 {
		t.Errorf("%d operations of 20,000", total)
	}
}

func TestCR04_NodesShareOneLimit(t *testing.T) {
	const left = 15_000
	root, store := &counted{}, memory.New()
	cfg := config(newClock())
	cfg.Mode = envelope.Direct
	root.Root = hsmtest.Root(t)
	open := func() *kms.KMS {
		k, err := kms.New(cfg, root, store)
		ok(t, err)
		return k
	}
	one := open()
	_, err := one.CreateKey(t.Context(), "a", "")
	ok(t, err)
	ok(t, one.SetOperations(t.Context(), "a", kms.MaxOperations-left))
	nodes := []*kms.KMS{open(), open()}
	root.encrypts.Store(0)
	var wg sync.WaitGroup
	for _, k := range nodes {
		for range 4 {
			wg.Go(func() { spendAll(t, k) })
		}
	}
	wg.Wait()
	if got := root.encrypts.Load(); got != left {
		t.Errorf("%d operations, not %d", got, left)
	}
}

// A counted root encrypts in no time, and counts.
type counted struct {
	kms.Root
	encrypts atomic.Int64
}

func (c *counted) Encrypt(ctx context.Context, handle, plaintext, ad []byte) ([]byte, error) {
	if c.encrypts.Add(1) <= 2 {
		return c.Root.Encrypt(ctx, handle, plaintext, ad)
	}
	return make([]byte, 60), nil
}

func TestCR04_BranchKeysCount(t *testing.T) {
	n := newBranchNode(t, func(c *kms.Config) { c.BranchUses = 1 })
	ok(t, n.SetOperations(t.Context(), "a", kms.MaxOperations-10))
	n.KMS = n.another(t)
	// The next branch key is made ahead, so that one may go unused.
	if done := spendAll(t, n.KMS); done < 5 || done > 10 {
		t.Errorf("%d branch keys of 10", done)
	}
}

func TestStepsGrowWithTheRate(t *testing.T) {
	n := newDirectNode(t, 1<<30)
	n.root.Root = &counted{Root: n.root.Root}
	writes := uint64(0)
	last := operations(t, n.KMS)
	for range 100 {
		_, _, err := n.GenerateDataKeys(t.Context(), "a", 2000, nil)
		ok(t, err)
		if now := operations(t, n.KMS); now != last {
			last = now
			writes++
		}
	}
	if writes == 0 || writes > 8 {
		t.Errorf("the record was written %d times for 200,000 operations", writes)
	}
}

func TestDecryptsDoNotCount(t *testing.T) {
	n := newDirectNode(t, 1)
	dek, c, _, err := n.GenerateDataKey(t.Context(), "a", []byte("ctx"))
	ok(t, err)
	for range 50 {
		got, _, err := n.Decrypt(t.Context(), "a", c, []byte("ctx"))
		ok(t, err)
		if !bytes.Equal(got, dek) {
			t.Fatal("something else")
		}
	}
}

func TestReservingCostsABranchKeyNothing(t *testing.T) {
	n := newBranchNode(t, func(c *kms.Config) { c.BranchUses = 1 })
	n.KMS = n.another(t)
	made := n.Stats().BranchesMade
	for range 300 { // more than one step
		dek, c := n.generate(t)
		opens(t, n.KMS, dek, c)
	}
	// Made ahead, some may go unused, but none because a record was replaced.
	if got := n.Stats().BranchesMade - made; got > 600 {
		t.Errorf("%d branch keys for 300 DEKs", got)
	}
}

// A counting root counts all calls that are made for data keys.
type counting struct {
	kms.Root
	calls atomic.Int64
}

func (c *counting) Encrypt(ctx context.Context, handle, plaintext, ad []byte) ([]byte, error) {
	c.calls.Add(1)
	return c.Root.Encrypt(ctx, handle, plaintext, ad)
}

func (c *counting) MAC(ctx context.Context, handle, message []byte) ([kms.MACSize]byte, error) {
	c.calls.Add(1)
	return c.Root.MAC(ctx, handle, message)
}

func (c *counting) Random(ctx context.Context, b []byte) error {
	c.calls.Add(1)
	return c.Root.Random(ctx, b)
}

func TestTheFirstDataKeyAfterARestartCostsFourCallsAndTheOthersNone(t *testing.T) {
	n := newBranchNode(t, nil)
	root := &counting{Root: n.root}
	k, err := kms.New(n.cfg, root, n.store)
	ok(t, err)
	for range 10_000 {
		_, _, _, err := k.GenerateDataKey(t.Context(), "a", nil)
		ok(t, err)
	}
	// To open the record, to reserve, for random bytes, and to wrap them.
	if got := root.calls.Load(); got > 4 {
		t.Errorf("%d calls of the root", got)
	}
}
