package kms

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keygate/keygate/keystore"
)

// A Rewrapper is a Root whose handles hold keys that a key of the root wraps, a KEK,
// of which it may know several: the present one, which wraps all new keys, and
// others. A Root that has no KEKs is none.
type Rewrapper interface {
	Root
	// Rewrap returns a handle of the same key that the present KEK wraps, which has
	// been used once and gave the same key. The old handle goes on working. It
	// reports false, and returns handle, if there is nothing to do: the present KEK
	// wraps the key, or no KEK does. ErrUnsupported: the old KEK does not let the key
	// be wrapped again.
	Rewrap(ctx context.Context, handle []byte) (next []byte, changed bool, err error)
	// WrappedBy names the KEK that wraps the handle's key, "" if none does, and
	// reports whether it is the present one. A KEK that the root does not know has a
	// name, too.
	WrappedBy(ctx context.Context, handle []byte) (kek string, present bool, err error)
}

// RewrapOptions say how RewrapKeys works.
type RewrapOptions struct {
	// Rate bounds the keys a second, so that gateways at the same root and store go
	// on. Zero: as many as can be.
	Rate float64
	// Progress, if not nil, is told of each key when it is done, whether or not
	// anything was to do for it, with the error that it could not be done for.
	Progress func(name string, changed bool, err error)
}

// A RewrapResult is what RewrapKeys did.
type RewrapResult struct {
	Keys    int `json:"keys"`    // that were looked at
	Changed int `json:"changed"` // whose record was written
	Handles int `json:"handles"` // of the root's keys in these records
	Gone    int `json:"gone"`    // keys that were deleted, for good, meanwhile
	Failed  int `json:"failed"`  // keys that are as they were
}

// How RewrapKeys waits for a root or a store that does not answer.
const (
	rewrapTries      = 6
	firstRewrapPause = 100 * time.Millisecond // doubled with each try: 3.1 s in all
)

// RewrapKeys has the root's present KEK wrap the keys of all records: of every
// version, also of keys that are pending deletion, and MAC keys. Other nodes may use,
// change and delete keys meanwhile. A record is written only when its new handles
// have been shown to be of the same keys as the old ones, and by compare and swap. What
// was done stays done, so that a call after one that failed, or was killed, goes on
// where that one ended. The old handles are good for as long as their KEK is there.
//
// A key that cannot be done is passed over, and is an error at the end. If the root or
// the store cannot be used it ends.
func (k *KMS) RewrapKeys(ctx context.Context, o RewrapOptions) (RewrapResult, error) {
	var result RewrapResult
	root, err := k.rewrapper()
	if err != nil {
		return result, err
	}
	names, err := k.ListKeys(ctx, "")
	if err != nil {
		return result, err
	}
	var failed []error
	begin := time.Now()
	for i, name := range names {
		if err := paced(ctx, begin, i, o.Rate); err != nil {
			return result, err
		}
		handles, err := k.rewrapPatiently(ctx, root, name)
		result.add(handles, err)
		if o.Progress != nil {
			o.Progress(name, handles > 0, err)
		}
		switch {
		case err == nil || errors.Is(err, ErrKeyNotFound):
		case ctx.Err() != nil || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDenied):
			return result, fmt.Errorf("kms: re-wrap key %q: %w", name, err)
		default:
			failed = append(failed, fmt.Errorf("kms: re-wrap key %q: %w", name, err))
		}
	}
	return result, someOf(failed)
}

// maxErrors bounds the errors of single keys in one: what is wrong with the root is
// wrong for each of thousands.
const maxErrors = 20

func someOf(errs []error) error {
	if more := len(errs) - maxErrors; more > 0 {
		errs = append(errs[:maxErrors:maxErrors], fmt.Errorf("kms: and %d more keys", more))
	}
	return errors.Join(errs...)
}

func (r *RewrapResult) add(handles int, err error) {
	r.Keys++
	switch {
	case errors.Is(err, ErrKeyNotFound):
		r.Gone++
	case err != nil:
		r.Failed++
	case handles > 0:
		r.Changed++
		r.Handles += handles
	}
}

func (k *KMS) rewrapper() (Rewrapper, error) {
	root, ok := k.root.(Rewrapper)
	if !ok {
		return nil, fmt.Errorf("%w: the root of trust has no keys that wrap others", ErrUnsupported)
	}
	return root, nil
}

// paced waits until the i-th of so many a second may begin.
func paced(ctx context.Context, begin time.Time, i int, rate float64) error {
	var wait time.Duration
	if rate > 0 {
		wait = time.Until(begin.Add(time.Duration(float64(i) / rate * float64(time.Second))))
	}
	return pause(ctx, wait)
}

func pause(ctx context.Context, d time.Duration) error {
	if d > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	return nil
}

// rewrapPatiently is rewrapKey, tried again while the root or the store is
// unavailable, which is also what a write is of which it is not known whether it
// was done.
func (k *KMS) rewrapPatiently(ctx context.Context, root Rewrapper, name string) (handles int, err error) {
	wait := firstRewrapPause
	for range rewrapTries {
		handles, err = k.rewrapKey(ctx, root, name)
		if !errors.Is(err, ErrUnavailable) {
			return handles, err
		}
		if pause(ctx, wait) != nil {
			return 0, err
		}
		wait *= 2
	}
	return 0, err
}

// rewrapKey does one record and returns how many of its handles are new. The tries
// at which other writers were first are not bounded: each of them got further.
func (k *KMS) rewrapKey(ctx context.Context, root Rewrapper, name string) (handles int, err error) {
	for tries := uint64(1); ; tries++ {
		r, rev, err := k.read(ctx, name)
		if err != nil {
			return 0, err
		}
		next, handles, err := k.rewrapped(ctx, root, r, tries)
		if err != nil || handles == 0 {
			return 0, err
		}
		err = k.replace(ctx, next, rev)
		if !errors.Is(err, keystore.ErrConflict) {
			return handles, err
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
		}
	}
}

// rewrapped returns a copy of r with new handles, and how many. Each try encrypted
// once with each version whose handle is new, which its operations are counted for.
func (k *KMS) rewrapped(ctx context.Context, root Rewrapper, r *record, tries uint64) (next *record, handles int, err error) {
	copied := *r
	copied.Versions = slices.Clone(r.Versions)
	renew := func(handle *[]byte, purpose Purpose) (changed bool) {
		if err != nil || *handle == nil {
			return false
		}
		var fresh []byte
		if fresh, changed, err = root.Rewrap(ctx, *handle); err == nil && changed {
			err = k.sameKey(ctx, purpose, *handle, fresh)
		}
		if err != nil || !changed {
			return false
		}
		*handle = fresh
		handles++
		return true
	}
	for i := range copied.Versions {
		v := &copied.Versions[i]
		if renew(&v.Handle, Encryption) {
			v.Reserved = max(v.Reserved, min(v.Reserved+tries, MaxOperations))
		}
	}
	renew(&copied.MACHandle, Authentication)
	renew(&copied.KESHandle, Authentication)
	return &copied, handles, err
}

// sameKey shows that two handles are of one key: what one encrypts the other
// decrypts, or both give the same MAC.
func (k *KMS) sameKey(ctx context.Context, purpose Purpose, old, fresh []byte) error {
	text, ad := make([]byte, KeySize), []byte("keygate key test v1")
	rand.Read(text)
	var one, two []byte
	if purpose == Encryption {
		ciphertext, err := k.root.Encrypt(ctx, old, text, ad)
		if err != nil {
			return err
		}
		if two, err = k.root.Decrypt(ctx, fresh, ciphertext, ad); err != nil {
			return otherKey(err)
		}
		one = text
	} else {
		mac, err := k.root.MAC(ctx, old, text)
		if err != nil {
			return err
		}
		again, err := k.root.MAC(ctx, fresh, text)
		if err != nil {
			return otherKey(err)
		}
		one, two = mac[:], again[:]
	}
	if !hmac.Equal(one, two) {
		return otherKey(nil)
	}
	return nil
}

// otherKey is the error of a new handle that does not do what the old one does,
// which is no fault of the record: it stays as it is. That the root is unavailable
// stays that.
func otherKey(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: the root re-wrapped the key as another: %v", ErrUnsupported, err)
}

// A Wrapping is what a KEK of the root wraps.
type Wrapping struct {
	KEK     string   `json:"kek"`     // its name; "" is for keys that none wraps
	Present bool     `json:"present"` // it wraps new keys
	Records int      `json:"records"` // that name a key which it wraps
	Handles int      `json:"handles"` // of such keys
	Some    []string `json:"some"`    // names of the first few records
}

// someRecords is how many names a Wrapping has at most.
const someRecords = 5

// Wrappings counts what each KEK of the root wraps, of all records. A record that
// cannot be read, or whose handles cannot, is an error: what is not known may need
// an old KEK.
func (k *KMS) Wrappings(ctx context.Context) ([]Wrapping, error) {
	root, err := k.rewrapper()
	if err != nil {
		return nil, err
	}
	names, err := k.ListKeys(ctx, "")
	if err != nil {
		return nil, err
	}
	var all []Wrapping
	var failed []error
	for _, name := range names {
		r, _, err := k.read(ctx, name)
		if err == nil {
			all, err = countWrappings(ctx, root, all, r)
		}
		if err != nil && !errors.Is(err, ErrKeyNotFound) {
			failed = append(failed, fmt.Errorf("kms: key %q: %w", name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	slices.SortFunc(all, func(a, b Wrapping) int { return bytes.Compare([]byte(a.KEK), []byte(b.KEK)) })
	return all, someOf(failed)
}

func countWrappings(ctx context.Context, root Rewrapper, all []Wrapping, r *record) ([]Wrapping, error) {
	seen := make(map[string]bool)
	for _, handle := range r.handles() {
		kek, present, err := root.WrappedBy(ctx, handle)
		if err != nil {
			return all, err
		}
		i := slices.IndexFunc(all, func(w Wrapping) bool { return w.KEK == kek })
		if i < 0 {
			i = len(all)
			all = append(all, Wrapping{KEK: kek, Present: present})
		}
		w := &all[i]
		w.Handles++
		if seen[kek] {
			continue
		}
		seen[kek] = true
		w.Records++
		if len(w.Some) < someRecords {
			w.Some = append(w.Some, r.Name)
		}
	}
	return all, nil
}
