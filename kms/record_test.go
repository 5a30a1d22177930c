package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// A tampered node is one whose store is under an attacker's hands.
type tampered struct {
	*kms.KMS
	root  kms.Root
	store keystore.Store
	clock *clock
}

func tamperable(t *testing.T) tampered {
	n := tampered{root: hsmtest.Root(t), store: memory.New(), clock: newClock()}
	n.KMS = n.restarted(t, n.store)
	return n
}

// restarted is the node as it is after a restart, on the same root.
func (n tampered) restarted(t *testing.T, store keystore.Store) *kms.KMS {
	t.Helper()
	k, err := kms.New(config(n.clock), n.root, store)
	ok(t, err)
	return k
}

func (n tampered) record(t *testing.T, name string) []byte {
	t.Helper()
	raw, _, err := n.store.Get(t.Context(), name)
	ok(t, err)
	return raw
}

func (n tampered) put(t *testing.T, name string, raw []byte) {
	t.Helper()
	_, rev, err := n.store.Get(t.Context(), name)
	ok(t, err)
	ok(t, n.store.Update(t.Context(), name, raw, rev))
	n.clock.advance(time.Minute) // past the cache
}

func (n tampered) use(t *testing.T, name string) error {
	_, _, _, err := n.GenerateDataKey(t.Context(), name, nil)
	return err
}

func TestKS16_CR05_SwappedRecordsAreRefused(t *testing.T) {
	n := tamperable(t)
	for _, name := range []string{"a", "b"} {
		_, err := n.CreateKey(t.Context(), name, "")
		ok(t, err)
	}
	a, b := n.record(t, "a"), n.record(t, "b")
	n.put(t, "a", b)
	n.put(t, "b", a)
	is(t, n.use(t, "a"), kms.ErrCorrupt)
	is(t, n.use(t, "b"), kms.ErrCorrupt)
	if got := n.Stats().CorruptRecords; got != 2 {
		t.Errorf("%d alarms, not 2", got)
	}
	// A node that was started after the swap refuses them too.
	restarted := n.restarted(t, n.store)
	_, err := restarted.DescribeKey(t.Context(), "a")
	is(t, err, kms.ErrCorrupt)
	_, err = restarted.CreateKey(t.Context(), "a", "")
	is(t, err, kms.ErrCorrupt)

	n.put(t, "a", a)
	ok(t, n.use(t, "a"))
}

func TestCR06_RecordOfAnotherClusterIsRefused(t *testing.T) {
	store, root := memory.New(), hsmtest.Root(t)
	here, err := kms.New(kms.Config{Cluster: cluster, Logger: quiet()}, root, store)
	ok(t, err)
	there, err := kms.New(kms.Config{Cluster: kms.ClusterID{9}, Logger: quiet()}, root, store)
	ok(t, err)
	_, err = here.CreateKey(t.Context(), "a", "")
	ok(t, err)
	_, err = there.DescribeKey(t.Context(), "a")
	is(t, err, kms.ErrCorrupt)
}

func TestKS17_RolledBackRecordIsRefused(t *testing.T) {
	n := tamperable(t)
	_, err := n.CreateKey(t.Context(), "a", "")
	ok(t, err)
	before := n.record(t, "a")
	_, err = n.DeleteKey(t.Context(), "a")
	ok(t, err)
	n.put(t, "a", before)
	is(t, n.use(t, "a"), kms.ErrCorrupt)
}

func TestCR07_BI18_EveryChangedBitOfARecordIsRefused(t *testing.T) {
	n := tamperable(t)
	_, err := n.ImportKey(t.Context(), "a", "creator", make([]byte, 32))
	ok(t, err)
	raw := n.record(t, "a")
	cold := func(changed []byte) error {
		store := memory.New()
		ok(t, store.Create(t.Context(), "a", changed))
		_, err := n.restarted(t, store).DescribeKey(t.Context(), "a")
		return err
	}
	for bit := range len(raw) * 8 {
		changed := slices.Clone(raw)
		changed[bit/8] ^= 1 << (bit % 8)
		if err := cold(changed); !errors.Is(err, kms.ErrCorrupt) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	for size := range raw {
		if err := cold(raw[:size]); !errors.Is(err, kms.ErrCorrupt) {
			t.Fatalf("truncated to %d: %v", size, err)
		}
	}
	is(t, cold(append(slices.Clone(raw), 0)), kms.ErrCorrupt)
	is(t, cold(bytes.Repeat(raw, 2)), kms.ErrCorrupt)
}

func TestRecordsAreReadOnceForManyRequests(t *testing.T) {
	c := newClock()
	store := &faulty{Store: memory.New()}
	k := open(t, config(c), store)
	_, err := k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	before := store.reads.Load()
	for range 100 {
		_, _, _, err := k.GenerateDataKey(t.Context(), "a", nil)
		ok(t, err)
	}
	if got := store.reads.Load() - before; got != 0 {
		t.Errorf("%d reads of the store", got)
	}
	c.advance(kms.DefaultRecordTTL)
	store.delay = 50 * time.Millisecond
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, _, _, err := k.GenerateDataKey(t.Context(), "a", nil)
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := store.reads.Load() - before; got > 2 {
		t.Errorf("%d reads of the store for 50 waiting requests", got)
	}
}

func TestAChangeOnAnotherNodeHoldsWithinTheTTL(t *testing.T) {
	c, store, root := newClock(), memory.New(), hsmtest.Root(t)
	one, err := kms.New(config(c), root, store)
	ok(t, err)
	two, err := kms.New(config(c), root, store)
	ok(t, err)
	_, err = one.CreateKey(t.Context(), "a", "")
	ok(t, err)
	_, _, _, err = two.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	_, err = one.DeleteKey(t.Context(), "a")
	ok(t, err)
	c.advance(kms.DefaultRecordTTL)
	_, _, _, err = two.GenerateDataKey(t.Context(), "a", nil)
	is(t, err, kms.ErrPendingDeletion)
}

func TestKS19_AStoreThatCannotTellIsNeverAbsent(t *testing.T) {
	c := newClock()
	store := &faulty{Store: memory.New()}
	cfg := config(c)
	cfg.Offline = time.Minute
	k := open(t, cfg, store)
	_, err := k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	store.fail.Store(true)
	_, _, _, err = k.GenerateDataKey(t.Context(), "never-seen", nil)
	is(t, err, kms.ErrUnavailable)
	_, err = k.CreateKey(t.Context(), "b", "")
	is(t, err, kms.ErrUnavailable)

	// A record that is known goes on for the configured time, then no longer.
	c.advance(30 * time.Second)
	_, _, _, err = k.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	c.advance(31 * time.Second)
	_, _, _, err = k.GenerateDataKey(t.Context(), "a", nil)
	is(t, err, kms.ErrUnavailable)
	store.fail.Store(false)
	_, _, _, err = k.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
}

func TestAWaiterLeavesAtItsOwnDeadline(t *testing.T) {
	store := &faulty{Store: memory.New(), delay: time.Second}
	k := open(t, config(newClock()), store)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, _, _, err := k.GenerateDataKey(ctx, "a", nil)
	is(t, err, kms.ErrUnavailable)
	is(t, err, context.DeadlineExceeded)
	if took := time.Since(start); took > 500*time.Millisecond {
		t.Errorf("it waited %v", took)
	}
}

func TestTheRecordCacheIsBounded(t *testing.T) {
	cfg := config(newClock())
	cfg.MaxRecords = 4
	k := open(t, cfg, memory.New())
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		_, err := k.CreateKey(t.Context(), name, "")
		ok(t, err)
	}
	if got := k.Stats().Records; got > 4 {
		t.Errorf("%d records in memory, not at most 4", got)
	}
}

// A busy store has something else done while a record is deleted, and once after
// one was read.
type busyStore struct {
	keystore.Store
	meanwhile func()
	afterRead func()
}

func (s *busyStore) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	raw, rev, err := s.Store.Get(ctx, name)
	if do := s.afterRead; do != nil {
		s.afterRead = nil
		do()
	}
	return raw, rev, err
}

func (s *busyStore) Delete(ctx context.Context, name string, rev keystore.Revision) error {
	s.meanwhile()
	return s.Store.Delete(ctx, name, rev)
}

// The record that is deleted is evicted meanwhile, so that the mark in its place is
// one more entry.
func TestTheRecordCacheIsBoundedWhileKeysAreDeleted(t *testing.T) {
	cfg := config(newClock())
	cfg.MaxRecords, cfg.DeletionWindow = 4, -1
	store := &busyStore{Store: memory.New()}
	k := open(t, cfg, store)
	stay := []string{"stay-1", "stay-2", "stay-3", "stay-4", "stay-5", "stay-6", "stay-7", "stay-8"}
	store.meanwhile = func() {
		for _, name := range stay {
			_, err := k.DescribeKey(t.Context(), name)
			ok(t, err)
		}
	}
	for _, name := range stay {
		_, err := k.CreateKey(t.Context(), name, "")
		ok(t, err)
	}
	for i := range 20 {
		name := fmt.Sprintf("go-%d", i)
		_, err := k.CreateKey(t.Context(), name, "")
		ok(t, err)
		_, err = k.DeleteKey(t.Context(), name)
		ok(t, err)
	}
	if got := k.Stats().Records; got > 4 {
		t.Errorf("%d records in memory, not at most 4", got)
	}
}

// A fetch has the record of a key that is deleted before the fetch ends, and the mark
// that the deletion left is evicted meanwhile: the record is not put back.
func TestADeletedKeyDoesNotComeBackByAFetch(t *testing.T) {
	clock := newClock()
	cfg := config(clock)
	cfg.MaxRecords, cfg.DeletionWindow = 4, -1
	store := &busyStore{Store: memory.New(), meanwhile: func() {}}
	k := open(t, cfg, store)
	stay := []string{"stay-1", "stay-2", "stay-3", "stay-4", "stay-5", "stay-6", "stay-7", "stay-8"}
	readAll := func() {
		for _, name := range stay {
			clock.advance(time.Millisecond)
			_, err := k.DescribeKey(t.Context(), name)
			ok(t, err)
		}
	}
	for _, name := range append([]string{"gone"}, stay...) {
		_, err := k.CreateKey(t.Context(), name, "")
		ok(t, err)
	}
	readAll() // so that "gone" is not in memory
	store.afterRead = func() {
		_, err := k.DeleteKey(t.Context(), "gone")
		ok(t, err)
		readAll()
	}
	_, _ = k.DescribeKey(t.Context(), "gone") // it began before the deletion, so either answer is right
	if store.afterRead != nil {
		t.Fatal("the record was in memory")
	}
	_, err := k.DescribeKey(t.Context(), "gone")
	is(t, err, kms.ErrKeyNotFound)
}
