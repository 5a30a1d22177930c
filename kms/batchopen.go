package kms

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/keygate/keygate/envelope"
)

// A Sealed is one ciphertext of a batch, with the additional data that it was
// made with.
type Sealed struct{ Ciphertext, AdditionalData []byte }

// An Opened is what came of a Sealed: a plaintext, which the caller wipes, or
// why there is none.
type Opened struct {
	Plaintext []byte
	Err       error
}

// DecryptBatch is Decrypt for up to MaxBatch ciphertexts of one key, each with an
// error of its own. A branch key that many of them name is looked up once. When
// the root cannot be used, what still needs it is not tried: it fails alike.
//
// The error is one of the key, or of all. Use names a version and a mode only if
// they are those of every ciphertext that names any.
func (k *KMS) DecryptBatch(ctx context.Context, name string, batch []Sealed) ([]Opened, Use, error) {
	if len(batch) > MaxBatch {
		return nil, Use{}, fmt.Errorf("%w: a batch of %d", ErrUnsupported, len(batch))
	}
	r, err := k.lookup(ctx, name)
	if err != nil {
		return nil, Use{}, err
	}
	if err := r.usable(); err != nil {
		return nil, Use{KeyID: r.ID}, err
	}
	o := &opener{kms: k, r: r, batch: batch, opened: make([]Opened, len(batch)), epoch: k.opened.epoch.Load()}
	o.calls.SetLimit(batchCalls)
	o.sort(ctx)
	o.calls.Wait()
	o.openInMemory()
	return o.opened, o.use(), nil
}

// An opener opens the ciphertexts of one batch.
type opener struct {
	kms    *KMS
	r      *record
	batch  []Sealed
	opened []Opened
	epoch  uint64 // of the opened branch keys, when the batch began

	calls  errgroup.Group
	out    atomic.Pointer[error] // why the root cannot be used
	inside []inMemory            // what is opened when the branch keys are there
	keys   map[string]*branchOf  // by header and wrapped key
	id     []byte                // room for such
	used   []Use                 // each that differs
	outage atomic.Bool
}

// An inMemory is a ciphertext whose branch key is, or will be, in memory.
type inMemory struct {
	item   int
	header envelope.Header
	sealed []byte
	key    *branchOf
}

// A branchOf is the branch key of some ciphertexts, once it was looked up.
type branchOf struct {
	wrapped []byte
	branch  *branch
	err     error
}

// sort sends what needs the root there and keeps the rest.
func (o *opener) sort(ctx context.Context) {
	o.keys = make(map[string]*branchOf)
	for i, s := range o.batch {
		h, body, err := envelope.Parse(s.Ciphertext)
		if err != nil || h.KeyID != o.r.ID {
			if _, o.opened[i].Err = o.r.parseKES(s.Ciphertext); o.opened[i].Err != nil {
				continue // it is bad whether the root can be asked or not
			}
			o.call(i, func() ([]byte, error) { return o.kms.openKES(ctx, o.r, s.Ciphertext, s.AdditionalData) })
			continue
		}
		o.note(Use{Version: h.Version, Mode: h.Mode})
		v, err := o.r.versionOf(h)
		switch {
		case err != nil:
			o.opened[i].Err = err
		case h.Mode == envelope.Direct:
			o.call(i, func() ([]byte, error) { return o.kms.openDirect(ctx, h, v, body, s.AdditionalData) })
		case o.kms.mode(o.r) == envelope.Direct: // each operation is to be one of the root's
			o.call(i, func() ([]byte, error) {
				plaintext, _, err := o.kms.openBranch(ctx, o.r, h, v, body, s.AdditionalData)
				return plaintext, err
			})
		default:
			o.opened[i].Err = o.keep(ctx, i, h, v, body)
		}
	}
}

// keep keeps a ciphertext until its branch key is there, which is looked up.
func (o *opener) keep(ctx context.Context, i int, h envelope.Header, v version, body []byte) error {
	wrapped, sealed, err := envelope.ParseBranch(body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCiphertext, err)
	}
	o.id = append(h.Append(o.id[:0]), wrapped...)
	key := o.keys[string(o.id)]
	if key == nil {
		key = &branchOf{wrapped: wrapped}
		o.keys[string(o.id)] = key
		o.look(ctx, key, h, v)
	}
	o.inside = append(o.inside, inMemory{item: i, header: h, sealed: sealed, key: key})
	return nil
}

// call opens one ciphertext with the root, as soon as few enough others do.
func (o *opener) call(i int, open func() ([]byte, error)) {
	o.unlessOut(func() (err error) {
		o.opened[i].Plaintext, err = open()
		return err
	}, &o.opened[i].Err)
}

// look looks a branch key up, likewise.
func (o *opener) look(ctx context.Context, b *branchOf, h envelope.Header, v version) {
	o.unlessOut(func() error {
		found, outage, err := o.kms.opening(ctx, o.r, o.epoch, h, v, b.wrapped)
		b.branch = found
		if outage {
			o.outage.Store(true)
		}
		return err
	}, &b.err)
}

// unlessOut does what needs the root, unless another has found that it is
// unavailable: then it fails alike.
func (o *opener) unlessOut(do func() error, failed *error) {
	o.calls.Go(func() error {
		if out := o.out.Load(); out != nil {
			*failed = *out
			return nil
		}
		defer func() {
			if err := *failed; errors.Is(err, ErrUnavailable) {
				o.out.CompareAndSwap(nil, &err)
			}
		}()
		defer recovered(failed)
		*failed = do()
		return nil
	})
}

// openInMemory opens what branch keys have sealed, into one piece of memory.
func (o *opener) openInMemory() {
	size := 0
	for _, m := range o.inside {
		size += len(m.sealed) // a little more than its plaintext
	}
	arena := make([]byte, 0, size)
	for _, m := range o.inside {
		to := &o.opened[m.item]
		if to.Err = m.key.err; to.Err != nil {
			continue
		}
		at := len(arena)
		opened, err := envelope.OpenBranch(arena, m.header, o.kms.cfg.Cluster, m.key.wrapped, m.key.branch.aead, m.sealed, o.batch[m.item].AdditionalData)
		if err != nil {
			to.Err = fmt.Errorf("%w: %w", ErrCiphertext, err)
			continue
		}
		arena = opened
		to.Plaintext = arena[at:len(arena):len(arena)]
	}
}

// note remembers how a ciphertext was made.
func (o *opener) note(u Use) {
	for _, other := range o.used {
		if other == u {
			return
		}
	}
	if len(o.used) < 16 {
		o.used = append(o.used, u)
	}
}

// use returns what all ciphertexts have in common.
func (o *opener) use() Use {
	u := Use{KeyID: o.r.ID, Outage: o.outage.Load()}
	for i, other := range o.used {
		if i == 0 {
			u.Version, u.Mode = other.Version, other.Mode
		}
		if other.Version != u.Version {
			u.Version = 0
		}
		if other.Mode != u.Mode {
			u.Mode = 0
		}
	}
	return u
}
