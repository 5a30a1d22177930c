package kms_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// inStores runs a test on each store that is here.
func inStores(t *testing.T, test func(t *testing.T, store keystore.Store)) {
	t.Run("memory", func(t *testing.T) { test(t, memory.New()) })
	t.Run("fs", func(t *testing.T) {
		cfg := fs.Config{Path: filepath.Join(t.TempDir(), "store")}
		ok(t, fs.Init(cfg, cluster.String()))
		store, err := fs.Open(cfg, cluster.String())
		ok(t, err)
		t.Cleanup(func() { ok(t, store.Close()) })
		test(t, store)
	})
}

// vanish takes the record of a name out of the store, past the API, and returns
// it.
func (n tampered) vanish(t *testing.T, name string) []byte {
	t.Helper()
	raw, rev, err := n.store.Get(t.Context(), name)
	ok(t, err)
	ok(t, n.store.Delete(t.Context(), name, rev))
	n.clock.advance(time.Minute) // past the cache
	return raw
}

// on is a node with a key, "a", and one of its ciphertexts.
func on(t *testing.T, store keystore.Store) (n tampered, ciphertext []byte) {
	n = tampered{root: hsmtest.Root(t), store: store, clock: newClock()}
	n.KMS = n.restarted(t, store)
	_, err := n.CreateKey(t.Context(), "a", "")
	ok(t, err)
	_, ciphertext, _, err = n.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	return n, ciphertext
}

func TestKS17_AVanishedRecordIsAnAlarmAndItsNameStaysTaken(t *testing.T) {
	inStores(t, func(t *testing.T, store keystore.Store) {
		n, ciphertext := on(t, store)
		raw := n.vanish(t, "a")
		for range 3 {
			before := n.Stats().CorruptRecords
			is(t, n.use(t, "a"), kms.ErrCorrupt)
			_, err := n.CreateKey(t.Context(), "a", "")
			is(t, err, kms.ErrCorrupt)
			_, err = n.ImportKey(t.Context(), "a", "", make([]byte, kms.KeySize))
			is(t, err, kms.ErrCorrupt)
			_, err = n.DescribeKey(t.Context(), "a")
			is(t, err, kms.ErrCorrupt)
			_, err = n.DeleteKey(t.Context(), "a")
			is(t, err, kms.ErrCorrupt)
			if got := n.Stats().CorruptRecords - before; got != 5 {
				t.Errorf("%d alarms for 5 requests", got)
			}
		}
		if _, _, err := store.Get(t.Context(), "a"); err == nil {
			t.Error("a new key was made under the name")
		}
		ok(t, store.Create(t.Context(), "a", raw))
		_, _, err := n.Decrypt(t.Context(), "a", ciphertext, nil)
		ok(t, err)
	})
}

func TestKS17_ADeletedKeyDoesNotComeBackByWayOfAbsence(t *testing.T) {
	inStores(t, func(t *testing.T, store keystore.Store) {
		n, _ := on(t, store)
		before := n.record(t, "a")
		_, err := n.DeleteKey(t.Context(), "a")
		ok(t, err)
		n.vanish(t, "a")
		is(t, n.use(t, "a"), kms.ErrCorrupt)
		ok(t, store.Create(t.Context(), "a", before))
		is(t, n.use(t, "a"), kms.ErrCorrupt)
	})
}

func TestKS17_AnotherKeyUnderTheNameIsAnAlarm(t *testing.T) {
	inStores(t, func(t *testing.T, store keystore.Store) {
		n, ciphertext := on(t, store)
		raw := n.vanish(t, "a")
		_, err := n.restarted(t, store).CreateKey(t.Context(), "a", "") // a node that has not seen the first
		ok(t, err)
		is(t, n.use(t, "a"), kms.ErrCorrupt)
		_, err = n.CreateKey(t.Context(), "a", "")
		is(t, err, kms.ErrCorrupt)
		n.put(t, "a", raw)
		_, _, err = n.Decrypt(t.Context(), "a", ciphertext, nil)
		ok(t, err)
	})
}

func TestWithoutAWindowAnotherNodeMayRemoveAndRemake(t *testing.T) {
	inStores(t, func(t *testing.T, store keystore.Store) {
		root, c := hsmtest.Root(t), newClock()
		cfg := config(c)
		cfg.DeletionWindow = -1
		one, err := kms.New(cfg, root, store)
		ok(t, err)
		two, err := kms.New(cfg, root, store)
		ok(t, err)
		first, err := one.CreateKey(t.Context(), "a", "")
		ok(t, err)
		_, err = two.DeleteKey(t.Context(), "a")
		ok(t, err)
		c.advance(time.Minute)
		_, err = one.DescribeKey(t.Context(), "a")
		is(t, err, kms.ErrKeyNotFound)

		second, err := one.CreateKey(t.Context(), "a", "")
		ok(t, err)
		_, err = two.DeleteKey(t.Context(), "a")
		ok(t, err)
		third, err := two.CreateKey(t.Context(), "a", "")
		ok(t, err)
		c.advance(time.Minute)
		now, err := one.DescribeKey(t.Context(), "a")
		ok(t, err)
		if now.ID != third.ID || now.ID == second.ID || now.ID == first.ID {
			t.Errorf("the key is %v", now.ID)
		}
		if got := one.Stats().CorruptRecords; got != 0 {
			t.Errorf("%d alarms", got)
		}
	})
}

// A racing store loses the record just before it is to be updated.
type racing struct{ keystore.Store }

func (r racing) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	if err := r.Delete(ctx, name, rev); err != nil {
		return err
	}
	return r.Store.Update(ctx, name, record, rev)
}

func TestKS17_ARecordThatVanishesWhileItIsChangedIsAnAlarm(t *testing.T) {
	inStores(t, func(t *testing.T, store keystore.Store) {
		n, _ := on(t, racing{store})
		_, err := n.DeleteKey(t.Context(), "a")
		is(t, err, kms.ErrCorrupt)
		_, err = n.CreateKey(t.Context(), "a", "")
		is(t, err, kms.ErrCorrupt)
	})
}

// A clock that is set back must not make what is in memory young again.
func TestAClockThatIsSetBackMakesNoRecordYoung(t *testing.T) {
	store, root := memory.New(), hsmtest.Root(t)
	c := newClock()
	one, err := kms.New(config(newClock()), root, store)
	ok(t, err)
	two, err := kms.New(config(c), root, store)
	ok(t, err)
	_, err = one.CreateKey(t.Context(), "a", "")
	ok(t, err)
	_, _, _, err = two.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	_, err = one.DeleteKey(t.Context(), "a")
	ok(t, err)
	c.advance(-time.Hour)
	c.advance(time.Minute)
	_, _, _, err = two.GenerateDataKey(t.Context(), "a", nil)
	is(t, err, kms.ErrPendingDeletion)
}
