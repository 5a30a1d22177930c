package kms_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// A recording root keeps what it was given to encrypt, counts what it was told
// to destroy, and can be made to lie.
type recording struct {
	kms.Root
	lie       func(plaintext []byte) []byte // of Decrypt; nil: the truth
	destroyed atomic.Int64

	mu        sync.Mutex
	encrypted [][]byte
}

func (r *recording) Encrypt(ctx context.Context, handle, plaintext, ad []byte) ([]byte, error) {
	r.mu.Lock()
	r.encrypted = append(r.encrypted, bytes.Clone(plaintext))
	r.mu.Unlock()
	return r.Root.Encrypt(ctx, handle, plaintext, ad)
}

func (r *recording) Decrypt(ctx context.Context, handle, ciphertext, ad []byte) ([]byte, error) {
	p, err := r.Root.Decrypt(ctx, handle, ciphertext, ad)
	if err == nil && r.lie != nil {
		p = r.lie(p)
	}
	return p, err
}

func (r *recording) DestroyKey(ctx context.Context, handle []byte) error {
	r.destroyed.Add(1)
	return r.Root.DestroyKey(ctx, handle)
}

// seen returns what was given to Encrypt since the last call.
func (r *recording) seen() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.encrypted
	r.encrypted = nil
	return seen
}

func TestCreateFailsIfTheKeyDoesNotDecryptWhatItEncrypts(t *testing.T) {
	for name, lie := range map[string]func([]byte) []byte{
		"other bytes": func(p []byte) []byte { q := bytes.Clone(p); q[0] ^= 1; return q },
		"too few":     func(p []byte) []byte { return p[:len(p)-1] },
		"none":        func([]byte) []byte { return nil },
		"too many":    func(p []byte) []byte { return append(bytes.Clone(p), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			root := &recording{Root: hsmtest.Root(t), lie: lie}
			k, err := kms.New(config(newClock()), root, memory.New())
			ok(t, err)
			_, err = k.CreateKey(t.Context(), "a", "")
			is(t, err, kms.ErrUnavailable)
			_, err = k.ImportKey(t.Context(), "b", "", bytes.Repeat([]byte{7}, kms.KeySize))
			is(t, err, kms.ErrUnavailable)
			// Both may be in use by other nodes, which may find them good.
			if n := root.destroyed.Load(); n != 0 {
				t.Errorf("%d keys of stored records were destroyed", n)
			}
		})
	}
}

// An unsure store can do what it was told and answer that it cannot tell.
type unsure struct {
	keystore.Store
	stores, fails atomic.Bool // of Create: it is stored; the answer is unavailable
	lose          atomic.Bool // Update stores, and answers likewise
}

func (u *unsure) Create(ctx context.Context, name string, record []byte) error {
	if !u.fails.Load() {
		return u.Store.Create(ctx, name, record)
	}
	if u.stores.Load() {
		if err := u.Store.Create(ctx, name, record); err != nil {
			return err
		}
	}
	return keystore.ErrUnavailable
}

func (u *unsure) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	if err := u.Store.Update(ctx, name, record, rev); err != nil || !u.lose.Load() {
		return err
	}
	return keystore.ErrUnavailable
}

func TestACreateThatMayHaveBeenStoredDestroysNoKey(t *testing.T) {
	for _, stored := range []bool{true, false} {
		root, store := &recording{Root: hsmtest.Root(t)}, &unsure{Store: memory.New()}
		k, err := kms.New(config(newClock()), root, store)
		ok(t, err)
		store.fails.Store(true)
		store.stores.Store(stored)
		_, err = k.CreateKey(t.Context(), "a", "")
		is(t, err, kms.ErrUnavailable)
		if n := root.destroyed.Load(); n != 0 {
			t.Fatalf("stored %v: %d keys were destroyed", stored, n)
		}
		store.fails.Store(false)

		_, err = k.CreateKey(t.Context(), "a", "")
		if want := map[bool]error{true: kms.ErrKeyExists, false: nil}[stored]; !errors.Is(err, want) {
			t.Errorf("stored %v: the second create: %v, not %v", stored, err, want)
		}
		info, err := k.DescribeKey(t.Context(), "a")
		ok(t, err)
		dek, c, use, err := k.GenerateDataKey(t.Context(), "a", nil)
		ok(t, err)
		got, _, err := k.Decrypt(t.Context(), "a", c, nil)
		ok(t, err)
		if !bytes.Equal(got, dek) || use.KeyID != info.ID {
			t.Errorf("stored %v: the key does not work", stored)
		}
	}
}

func TestADeleteWithoutAnAnswerIsSeen(t *testing.T) {
	root, store := &recording{Root: hsmtest.Root(t)}, &unsure{Store: memory.New()}
	k, err := kms.New(config(newClock()), root, store)
	ok(t, err)
	_, err = k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	store.lose.Store(true)
	_, err = k.DeleteKey(t.Context(), "a")
	is(t, err, kms.ErrUnavailable)
	store.lose.Store(false)
	_, _, _, err = k.GenerateDataKey(t.Context(), "a", nil)
	is(t, err, kms.ErrPendingDeletion)
	if n := root.destroyed.Load(); n != 0 {
		t.Errorf("%d keys were destroyed", n)
	}
}

func TestALostRaceDestroysItsOwnKeysOnly(t *testing.T) {
	root, store := &recording{Root: hsmtest.Root(t)}, memory.New()
	k, err := kms.New(config(newClock()), root, store)
	ok(t, err)
	// Another node comes between the look and the create.
	other, err := kms.New(config(newClock()), root, store)
	ok(t, err)
	_, err = other.CreateKey(t.Context(), "a", "")
	ok(t, err)
	late, err := kms.New(config(newClock()), root, &blind{Store: store})
	ok(t, err)
	_, err = late.CreateKey(t.Context(), "a", "")
	is(t, err, kms.ErrKeyExists)
	if n := root.destroyed.Load(); n != 2 {
		t.Errorf("%d keys were destroyed, not the 2 of the loser", n)
	}
	_, _, _, err = k.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
}

// A blind store does not find what is there at first.
type blind struct {
	keystore.Store
	sees atomic.Bool
}

func (b *blind) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	if !b.sees.Swap(true) {
		return nil, "", keystore.ErrNotFound
	}
	return b.Store.Get(ctx, name)
}

// random fails the test unless all of keys have 32 bytes, are distinct, and none
// is of one byte only.
func random(t *testing.T, what string, keys [][]byte) {
	t.Helper()
	had := make(map[string]bool)
	for _, k := range keys {
		if len(k) != kms.KeySize || bytes.Count(k, k[:1]) == len(k) {
			t.Fatalf("%s is %x", what, k)
		}
		if had[string(k)] {
			t.Fatalf("%s is there twice", what)
		}
		had[string(k)] = true
	}
}

func TestDEKsAreRandom(t *testing.T) { inModes(t, testDEKsAreRandom) }

func testDEKsAreRandom(t *testing.T, k *kms.KMS, _ envelope.Mode) {
	_, err := k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	var deks [][]byte
	for range 50 {
		dek, _, _, err := k.GenerateDataKey(t.Context(), "a", nil)
		ok(t, err)
		deks = append(deks, dek)
		c, _, err := k.GenerateDataKeyWithoutPlaintext(t.Context(), "a", nil)
		ok(t, err)
		dek, _, err = k.Decrypt(t.Context(), "a", c, nil)
		ok(t, err)
		deks = append(deks, dek)
	}
	batch, _, err := k.GenerateDataKeys(t.Context(), "a", 150, nil)
	ok(t, err)
	for dek := range batch.All() {
		deks = append(deks, slices.Clone(dek))
	}
	if len(deks) != 250 {
		t.Fatalf("%d DEKs", len(deks))
	}
	random(t, "a DEK", deks)
}

func TestBranchKeysAreRandom(t *testing.T) {
	for _, mode := range []envelope.Mode{envelope.Direct, envelope.Branch} {
		t.Run(mode.String(), func(t *testing.T) {
			root := &recording{Root: hsmtest.Root(t)}
			cfg := config(newClock())
			cfg.Mode, cfg.BranchUses = mode, 1 // in branch mode each ciphertext has a branch key
			k, err := kms.New(cfg, root, memory.New())
			ok(t, err)
			_, err = k.CreateKey(t.Context(), "a", "")
			ok(t, err)
			root.seen()
			large := make([]byte, kms.MaxRootPlaintext+1) // in direct mode, too, too large for the root
			for range 20 {
				_, _, err := k.Encrypt(t.Context(), "a", large, nil)
				ok(t, err)
			}
			wrapped := root.seen()
			if len(wrapped) < 20 {
				t.Fatalf("%d branch keys", len(wrapped))
			}
			random(t, "a branch key", wrapped)
		})
	}
}

// A forgetful store is one that takes the record that it has stored for another's, as
// it may when the answer to its first try was lost.
type forgetful struct{ keystore.Store }

func (s forgetful) Create(ctx context.Context, name string, record []byte) error {
	if err := s.Store.Create(ctx, name, record); err != nil {
		return err
	}
	return keystore.ErrExists
}

func TestCreateDestroysNoKeyOfARecordThatIsStored(t *testing.T) {
	root, store := &recording{Root: hsmtest.Root(t)}, memory.New()
	one, err := kms.New(config(newClock()), root, forgetful{store})
	ok(t, err)
	two, err := kms.New(config(newClock()), root, store)
	ok(t, err)
	_, err = one.CreateKey(t.Context(), "a", "")
	is(t, err, kms.ErrUnavailable)
	if n := root.destroyed.Load(); n != 0 {
		t.Errorf("%d keys of a stored record were destroyed", n)
	}
	_, ciphertext, _, err := two.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	_, _, err = one.Decrypt(t.Context(), "a", ciphertext, nil)
	ok(t, err)
	_, err = one.CreateKey(t.Context(), "a", "")
	is(t, err, kms.ErrKeyExists)
}
