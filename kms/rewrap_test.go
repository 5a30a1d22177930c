package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/local"
)

// A shelfRoot is a root with two KEKs: a handle is the number of its KEK and the
// handle of another root.
type shelfRoot struct {
	kms.Root
	present atomic.Uint32
	gone    atomic.Uint32                       // a KEK that the root no longer has
	other   func(next []byte) ([]byte, error)   // if not nil, what Rewrap answers
	calls   atomic.Int64                        // of Rewrap
	before  func(ctx context.Context, call int) // if not nil, is called by Rewrap
}

func newShelfRoot(t *testing.T) *shelfRoot {
	cfg := local.Config{File: filepath.Join(t.TempDir(), "root")}
	_, err := local.Init(cfg)
	ok(t, err)
	root, err := local.Open(cfg)
	ok(t, err)
	t.Cleanup(func() { ok(t, root.Close()) })
	r := &shelfRoot{Root: root}
	r.present.Store(1)
	return r
}

func (r *shelfRoot) inner(handle []byte) ([]byte, error) {
	if handle == nil {
		return nil, nil
	}
	if uint32(handle[0]) == r.gone.Load() {
		return nil, fmt.Errorf("KEK %d is gone: %w", handle[0], kms.ErrCorrupt)
	}
	return handle[1:], nil
}

func (r *shelfRoot) outer(handle []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return append([]byte{byte(r.present.Load())}, handle...), nil
}

func (r *shelfRoot) NewKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose) ([]byte, error) {
	return r.outer(r.Root.NewKey(ctx, id, purpose))
}

func (r *shelfRoot) ImportKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, key []byte) ([]byte, error) {
	return r.outer(r.Root.ImportKey(ctx, id, purpose, key))
}

func (r *shelfRoot) Encrypt(ctx context.Context, handle, plaintext, ad []byte) ([]byte, error) {
	inner, err := r.inner(handle)
	if err != nil {
		return nil, err
	}
	return r.Root.Encrypt(ctx, inner, plaintext, ad)
}

func (r *shelfRoot) Decrypt(ctx context.Context, handle, ciphertext, ad []byte) ([]byte, error) {
	inner, err := r.inner(handle)
	if err != nil {
		return nil, err
	}
	return r.Root.Decrypt(ctx, inner, ciphertext, ad)
}

func (r *shelfRoot) MAC(ctx context.Context, handle, message []byte) ([kms.MACSize]byte, error) {
	inner, err := r.inner(handle)
	if err != nil {
		return [kms.MACSize]byte{}, err
	}
	return r.Root.MAC(ctx, inner, message)
}

func (r *shelfRoot) DestroyKey(ctx context.Context, handle []byte) error {
	return r.Root.DestroyKey(ctx, handle[1:])
}

func (r *shelfRoot) Rewrap(ctx context.Context, handle []byte) ([]byte, bool, error) {
	call := int(r.calls.Add(1))
	if r.before != nil {
		r.before(ctx, call)
	}
	if uint32(handle[0]) == r.present.Load() {
		return handle, false, nil
	}
	inner, err := r.inner(handle)
	if err != nil {
		return nil, false, err
	}
	if r.other != nil {
		next, err := r.other(inner)
		return next, err == nil, err
	}
	next, err := r.outer(inner, nil)
	return next, true, err
}

func (r *shelfRoot) WrappedBy(_ context.Context, handle []byte) (string, bool, error) {
	return fmt.Sprint("kek-", handle[0]), uint32(handle[0]) == r.present.Load(), nil
}

// A rotation is a cluster with keys of all sorts, under the first KEK of a root.
type rotation struct {
	root  *shelfRoot
	store keystore.Store
	*kms.KMS

	deks        map[string][]byte // by name
	ciphertexts map[string][]byte
	macs        map[string][kms.MACSize]byte
}

var rotated = []string{"a", "b", "c", "imported"}

func newRotation(t *testing.T, wrap func(keystore.Store) keystore.Store) *rotation {
	n := &rotation{root: newShelfRoot(t), store: memory.New(), deks: map[string][]byte{}, ciphertexts: map[string][]byte{}, macs: map[string][kms.MACSize]byte{}}
	if wrap != nil {
		n.store = wrap(n.store)
	}
	n.KMS = n.node(t)
	for _, name := range rotated {
		var err error
		if name == "imported" {
			key, _ := ofKES(t)
			_, err = n.ImportKey(t.Context(), name, "", key)
		} else {
			_, err = n.CreateKey(t.Context(), name, "")
		}
		ok(t, err)
		n.deks[name], n.ciphertexts[name], _, err = n.GenerateDataKey(t.Context(), name, nil)
		ok(t, err)
		n.macs[name], _, err = n.MAC(t.Context(), name, []byte("message"))
		ok(t, err)
	}
	_, err := n.CreateKey(t.Context(), "deleted", "")
	ok(t, err)
	_, err = n.DeleteKey(t.Context(), "deleted")
	ok(t, err)
	return n
}

// node is another node, or this one after a restart.
func (n *rotation) node(t *testing.T) *kms.KMS {
	t.Helper()
	k, err := kms.New(kms.Config{Cluster: cluster, Logger: quiet()}, n.root, n.store)
	ok(t, err)
	return k
}

// opens shows that k opens all that was made before.
func (n *rotation) opens(t *testing.T, k *kms.KMS) {
	t.Helper()
	for _, name := range rotated {
		dek, _, err := k.Decrypt(t.Context(), name, n.ciphertexts[name], nil)
		ok(t, err)
		mac, _, err := k.MAC(t.Context(), name, []byte("message"))
		ok(t, err)
		if !bytes.Equal(dek, n.deks[name]) || mac != n.macs[name] {
			t.Errorf("key %s is another one", name)
		}
	}
	_, ciphertext := ofKES(t)
	got, _, err := k.Decrypt(t.Context(), "imported", ciphertext, []byte(`{"bucket":"bucket/object"}`))
	ok(t, err)
	if !bytes.Equal(got, bytes.Repeat([]byte{0x11}, 32)) {
		t.Errorf("a ciphertext of KES decrypts to %x", got)
	}
}

// needs fails the test unless so many records need a KEK.
func (n *rotation) needs(t *testing.T, kek string, records int) {
	t.Helper()
	all, err := n.node(t).Wrappings(t.Context())
	ok(t, err)
	got := 0
	for _, w := range all {
		if w.KEK == kek {
			got = w.Records
		}
	}
	if got != records {
		t.Errorf("%d records need %s, not %d: %+v", got, kek, records, all)
	}
}

func TestOP10_RewrapKeysLeavesNothingUnderTheOldKEK(t *testing.T) {
	n := newRotation(t, nil)
	n.root.present.Store(2)
	n.needs(t, "kek-1", 5)
	seen := map[string]bool{}
	result, err := n.node(t).RewrapKeys(t.Context(), kms.RewrapOptions{Progress: func(name string, changed bool, err error) { seen[name] = changed && err == nil }})
	ok(t, err)
	// Two handles a key, and one more of the key that opens KES ciphertexts.
	if want := (kms.RewrapResult{Keys: 5, Changed: 5, Handles: 11}); result != want {
		t.Errorf("result is %+v", result)
	}
	if len(seen) != 5 || !seen["deleted"] || !seen["imported"] {
		t.Errorf("progress was told of %v", seen)
	}
	n.needs(t, "kek-1", 0)
	n.needs(t, "kek-2", 5)
	n.opens(t, n.KMS) // with the old handles in memory
	n.root.gone.Store(1)
	n.opens(t, n.node(t))
	result, err = n.node(t).RewrapKeys(t.Context(), kms.RewrapOptions{})
	ok(t, err)
	if want := (kms.RewrapResult{Keys: 5}); result != want {
		t.Errorf("the second time, result is %+v", result)
	}
}

// TestOP10_RewrapKeysGoesOnWhereItEnded ends it before each call of the root in turn,
// as a kill would, and goes on with another node.
func TestOP10_RewrapKeysGoesOnWhereItEnded(t *testing.T) {
	n := newRotation(t, nil)
	n.root.present.Store(2)
	done := 0
	for end := 1; end <= 12; end++ {
		ctx, cancel := context.WithCancel(t.Context())
		n.root.calls.Store(0)
		n.root.before = func(_ context.Context, call int) {
			if call == end {
				cancel()
			}
		}
		result, err := n.node(t).RewrapKeys(ctx, kms.RewrapOptions{})
		cancel()
		n.root.before = nil
		if (err == nil) != (end == 12) {
			t.Errorf("ended at call %d: error is %v", end, err)
		}
		done += result.Changed
		n.needs(t, "kek-2", done)
		n.needs(t, "kek-1", 5-done)
		n.opens(t, n.node(t))
	}
	if done != 5 {
		t.Errorf("%d records were done", done)
	}
	n.root.gone.Store(1)
	n.opens(t, n.node(t))
}

func TestOP10_RewrapKeysUnderLoad(t *testing.T) {
	n := newRotation(t, nil)
	n.root.present.Store(2)
	node := n.node(t)
	var load sync.WaitGroup
	stop := make(chan struct{})
	for i := range 4 {
		load.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-stop:
					return
				default:
				}
				name := rotated[(i+j)%len(rotated)]
				dek, ciphertext, _, err := node.GenerateDataKey(t.Context(), name, nil)
				if err != nil {
					t.Error(err)
					return
				}
				got, _, err := n.Decrypt(t.Context(), name, ciphertext, nil)
				if err != nil || !bytes.Equal(got, dek) {
					t.Errorf("another node decrypts to %x, %v", got, err)
					return
				}
				// Other changes of the same records, which it must not undo.
				if j%8 != 0 {
					continue
				}
				if _, err := node.SetMode(t.Context(), name, envelope.Mode(j/8%3)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	n.root.before = func(context.Context, int) { time.Sleep(time.Millisecond) }
	result, err := n.node(t).RewrapKeys(t.Context(), kms.RewrapOptions{})
	close(stop)
	load.Wait()
	ok(t, err)
	if result.Changed != 5 {
		t.Errorf("result is %+v", result)
	}
	n.needs(t, "kek-1", 0)
	n.root.gone.Store(1)
	n.opens(t, n.node(t))
}

// An overtaken store has another writer come before each of the first few updates.
type overtaken struct {
	keystore.Store
	race atomic.Int64
	by   func(name string)
}

func (s *overtaken) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	if s.race.Add(-1) >= 0 {
		s.by(name)
	}
	return s.Store.Update(ctx, name, record, rev)
}

func TestOP10_RewrapKeysUndoesNoOtherChange(t *testing.T) {
	var store *overtaken
	n := newRotation(t, func(s keystore.Store) keystore.Store { store = &overtaken{Store: s}; return store })
	n.root.present.Store(2)
	other, err := kms.New(kms.Config{Cluster: cluster, Logger: quiet()}, n.root, store.Store)
	ok(t, err)
	store.by = func(name string) { _, err := other.DeleteKey(context.Background(), name); ok(t, err) }
	store.race.Store(2)
	result, err := n.node(t).RewrapKeys(t.Context(), kms.RewrapOptions{})
	ok(t, err)
	if result.Changed != 5 {
		t.Errorf("result is %+v", result)
	}
	n.needs(t, "kek-1", 0)
	// "a" met a delete at its first update and at no other.
	info, err := n.node(t).DescribeKey(t.Context(), "a")
	ok(t, err)
	if info.State != kms.PendingDeletion {
		t.Errorf("a key that was deleted meanwhile is %v", info.State)
	}
}

func TestOP10_RewrapKeysPassesOverAKeyThatIsGone(t *testing.T) {
	var store *overtaken
	n := newRotation(t, func(s keystore.Store) keystore.Store { store = &overtaken{Store: s}; return store })
	n.root.present.Store(2)
	other, err := kms.New(kms.Config{Cluster: cluster, Logger: quiet(), DeletionWindow: -1}, n.root, store.Store)
	ok(t, err)
	store.by = func(name string) { _, err := other.DeleteKey(context.Background(), name); ok(t, err) }
	store.race.Store(1)
	k, err := kms.New(kms.Config{Cluster: cluster, Logger: quiet(), DeletionWindow: -1}, n.root, store)
	ok(t, err)
	result, err := k.RewrapKeys(t.Context(), kms.RewrapOptions{})
	ok(t, err)
	if want := (kms.RewrapResult{Keys: 5, Changed: 4, Handles: 9, Gone: 1}); result != want {
		t.Errorf("result is %+v", result)
	}
}

// TestCR14_AReWrappedKeyThatIsAnotherIsNotStored: the root must not be believed.
func TestCR14_AReWrappedKeyThatIsAnotherIsNotStored(t *testing.T) {
	n := newRotation(t, nil)
	n.root.present.Store(2)
	for name, other := range map[string]func([]byte) ([]byte, error){
		"another key":   func([]byte) ([]byte, error) { return n.root.NewKey(t.Context(), kms.KeyID{9}, kms.Encryption) },
		"no key":        func([]byte) ([]byte, error) { return []byte{2, 1, 2, 3}, nil },
		"not supported": func([]byte) ([]byte, error) { return nil, kms.ErrUnsupported },
	} {
		t.Run(name, func(t *testing.T) {
			n.root.other = other
			defer func() { n.root.other = nil }()
			result, err := n.node(t).RewrapKeys(t.Context(), kms.RewrapOptions{})
			if err == nil || errors.Is(err, kms.ErrUnavailable) {
				t.Errorf("error is %v", err)
			}
			if want := (kms.RewrapResult{Keys: 5, Failed: 5}); result != want {
				t.Errorf("result is %+v", result)
			}
			n.needs(t, "kek-1", 5)
			n.opens(t, n.node(t))
		})
	}
}

func TestRewrapKeysTriesAgainWhileTheRootIsAway(t *testing.T) {
	n := newRotation(t, nil)
	n.root.present.Store(2)
	away := 3
	n.root.other = func(inner []byte) ([]byte, error) {
		if away--; away >= 0 {
			return nil, kms.ErrUnavailable
		}
		return n.root.outer(inner, nil)
	}
	result, err := n.node(t).RewrapKeys(t.Context(), kms.RewrapOptions{})
	ok(t, err)
	if result.Changed != 5 {
		t.Errorf("result is %+v", result)
	}
}

func TestRewrapKeysKeepsToItsRate(t *testing.T) {
	n := newRotation(t, nil)
	n.root.present.Store(2)
	start := time.Now()
	_, err := n.node(t).RewrapKeys(t.Context(), kms.RewrapOptions{Rate: 40})
	ok(t, err)
	if took := time.Since(start); took < 100*time.Millisecond { // the fifth begins then
		t.Errorf("5 keys at 40 a second took %v", took)
	}
}

func TestRewrapKeysNeedsARootWithKEKs(t *testing.T) {
	n := newRotation(t, nil)
	k, err := kms.New(kms.Config{Cluster: cluster, Logger: quiet()}, n.root.Root, n.store)
	ok(t, err)
	_, err = k.RewrapKeys(t.Context(), kms.RewrapOptions{})
	is(t, err, kms.ErrUnsupported)
	_, err = k.Wrappings(t.Context())
	is(t, err, kms.ErrUnsupported)
}
