package kms

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"weak"

	"github.com/keygate/keygate/envelope"
)

// A branch is a branch key in memory: one that this node seals with, or one of
// another node or day that was opened. It is only the expanded key; the bytes
// are wiped when it is made.
type branch struct {
	header  envelope.Header
	wrapped []byte
	aead    cipher.AEAD
	born    int64        // in nanoseconds since 1970
	until   int64        // the end of its life, likewise
	left    atomic.Int64 // DEKs that it may still seal; of no meaning for an opened one
	used    atomic.Int64 // when it last opened something, likewise; coarse
	trying  atomic.Bool  // the root is asked for it again, beside requests

	// Each of these holds b until it has fired or is stopped. They are set once,
	// before others can see b there.
	sealed *time.Timer // takes b out of its sealer
	opened *time.Timer // takes b out of the cache of opened branch keys
}

// A sealer holds the branch key that new DEKs of one key version are sealed
// with.
type sealer struct {
	current atomic.Pointer[branch]
	making  atomic.Bool // the next one is being made, off the hot path
}

// use puts b in the place of the current branch key, for life.
func (s *sealer) use(b *branch, life time.Duration) {
	gone := weak.Make(b) // as in openedCache.put
	b.sealed = time.AfterFunc(life, func() {
		if b := gone.Value(); b != nil {
			s.current.CompareAndSwap(b, nil)
		}
	})
	s.current.Swap(b).retire()
}

// forget leaves the next DEK to ask for a new branch key.
func (s *sealer) forget() { s.current.Swap(nil).retire() }

// retire, of a branch key that no sealer has any more, lets go of it.
func (b *branch) retire() {
	if b != nil {
		b.sealed.Stop()
	}
}

// renewAt is the part of its life, in percent, after which the next branch key
// is made ahead.
const renewAt = 80

// fresh reports whether b may seal n more DEKs, which are then counted.
func (b *branch) fresh(now int64, n int64) bool {
	return b != nil && now < b.until && b.left.Add(-n) >= 0
}

// aging reports whether it is time to make the next one.
func (b *branch) aging(now, uses int64) bool {
	return (now-b.born)/renewAt*100 >= b.until-b.born || b.left.Load() < uses*(100-renewAt)/100
}

// sealing returns a branch key that may seal n more DEKs, at most
// Config.BranchUses, under the newest version of r. epoch is that of the opened
// branch keys when the operation began with r. outage says that the key is past its
// life.
func (k *KMS) sealing(ctx context.Context, r *record, epoch uint64, n int64) (b *branch, outage bool, err error) {
	s := r.sealer
	b = s.current.Load()
	now := k.cfg.Now().UnixNano()
	if b.fresh(now, n) {
		if b.aging(now, k.cfg.BranchUses) && s.making.CompareAndSwap(false, true) {
			go k.makeAhead(ctx, r, epoch)
		}
		return b, false, nil
	}
	if b != nil && k.outageLasts() && b.left.Add(-n) >= 0 {
		// The root does not answer, or late: it is asked beside the request.
		if s.making.CompareAndSwap(false, true) {
			go k.makeAhead(ctx, r, epoch)
		}
		k.stats.outageUses.Add(1)
		return b, true, nil
	}
	next, err := k.awaitBranch(ctx, r, epoch, b)
	if err != nil {
		return k.sealInOutage(b, n, err)
	}
	if next.fresh(now, n) {
		return next, false, nil
	}
	// Others that waited with this call have used it up.
	if err := ctx.Err(); err != nil {
		return nil, false, fmt.Errorf("%w: wait for a branch key: %w", ErrUnavailable, err)
	}
	return k.sealing(ctx, r, epoch, n)
}

// awaitBranch waits for a branch key in the place of old. One is made, however
// many wait, and each waits only as long as its own context allows.
func (k *KMS) awaitBranch(ctx context.Context, r *record, epoch uint64, old *branch) (*branch, error) {
	key := fmt.Sprintf("branch %v %d", r.ID, r.newest().Number)
	return share(ctx, k, key, "a branch key", func(ctx context.Context) (*branch, error) {
		if b := r.sealer.current.Load(); b != nil && b != old {
			return b, nil
		}
		return k.makeBranch(ctx, r, epoch)
	})
}

func (k *KMS) makeAhead(ctx context.Context, r *record, epoch uint64) {
	defer r.sealer.making.Store(false)
	_, err := func() (_ *branch, err error) {
		defer recovered(&err)
		return k.makeBranch(context.WithoutCancel(ctx), r, epoch)
	}()
	if err != nil {
		k.cfg.Logger.Warn("kms: the next branch key could not be made ahead; it will be tried again", "key", r.Name, "error", err)
		// Not at once again: while the root is down each try costs a time-out.
		time.Sleep(time.Second)
	}
}

// makeBranch makes a branch key and puts it in the place of the current one.
// Whoever waits for it uses it, but it stays only if none was forgotten since epoch.
func (k *KMS) makeBranch(ctx context.Context, r *record, epoch uint64) (*branch, error) {
	if err := k.spend(ctx, r, 1); err != nil {
		return nil, err
	}
	v := r.newest()
	h := envelope.Header{Mode: envelope.Branch, KeyID: r.ID, Version: v.Number}
	key, err := k.branchBytes(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	wrapped, err := k.rootEncrypt(ctx, v.Handle, key, envelope.WrapAdditionalData(h, k.cfg.Cluster))
	if err != nil {
		return nil, err
	}
	if err := k.tryBranch(ctx, h, v, wrapped, key); err != nil {
		return nil, err
	}
	lifetime := k.branchLifetime(wrapped)
	b, err := k.newBranch(h, wrapped, key, lifetime)
	if err != nil {
		return nil, err
	}
	b.left.Store(k.cfg.BranchUses)
	r.sealer.use(b, lifetime+k.cfg.Outage)
	if k.opened.epoch.Load() != epoch {
		r.sealer.forget() // maybe the key is not to have one: see forgetBranches
	}
	k.keep(b, epoch)
	k.stats.branchesMade.Add(1)
	return b, nil
}

// partialLifetime bounds the life of a branch key that only a part of the root opens:
// all that it seals depends on that part, also when the others have come back.
const partialLifetime = time.Minute

// branchLifetime returns how long a branch key that was wrapped so seals.
func (k *KMS) branchLifetime(wrapped []byte) time.Duration {
	if p, ok := k.root.(Partial); ok && p.Partial(wrapped) {
		return min(k.cfg.BranchLifetime, partialLifetime)
	}
	return k.cfg.BranchLifetime
}

// tryBranch returns an error unless the root opens what it has just wrapped: all
// that a branch key seals is lost if it does not, which would show when it is gone
// from memory, an hour later.
func (k *KMS) tryBranch(ctx context.Context, h envelope.Header, v version, wrapped, key []byte) error {
	back, err := k.rootDecrypt(ctx, v.Handle, wrapped, envelope.WrapAdditionalData(h, k.cfg.Cluster))
	defer clear(back)
	switch {
	case errors.Is(err, ErrCiphertext):
		err = fmt.Errorf("%w: the root does not open the branch key that it has wrapped: %v", ErrUnavailable, err)
	case err == nil && !bytes.Equal(back, key):
		err = fmt.Errorf("%w: the root opens the branch key that it has wrapped to something else", ErrUnavailable)
	}
	return err
}

// branchBytes returns KeySize random bytes, of the root's and the system's
// source together, so that one of the two may be bad. The caller wipes them.
func (k *KMS) branchBytes(ctx context.Context) ([]byte, error) {
	theirs := make([]byte, KeySize)
	defer clear(theirs)
	if err := k.root.Random(ctx, theirs); err != nil {
		return nil, k.rootError(err)
	}
	if constant(theirs) {
		k.stats.rootErrors.Add(1)
		return nil, fmt.Errorf("%w: the root's random source returns a constant", ErrUnavailable)
	}
	ours := make([]byte, KeySize)
	defer clear(ours)
	rand.Read(ours)
	// HMAC as a randomness extractor: NIST SP 800-56C rev. 2, 4.
	h := hmac.New(sha256.New, ours)
	h.Write(theirs)
	return h.Sum(nil), nil
}

// constant reports whether all bytes are the same: what a source returns that
// has failed without saying so (the chance of a good one is 2^-248).
func constant(b []byte) bool {
	for _, c := range b {
		if c != b[0] {
			return false
		}
	}
	return true
}

func (k *KMS) newBranch(h envelope.Header, wrapped, key []byte, lifetime time.Duration) (b *branch, err error) {
	now := k.cfg.Now().UnixNano()
	b = &branch{header: h, wrapped: wrapped, born: now, until: now + int64(lifetime)}
	erasing(func() { b.aead, err = envelope.NewBranchAEAD((*[KeySize]byte)(key)) })
	return b, err
}

// sealInOutage returns b, past its life, if the root cannot be used and has not
// been for less than the outage window.
func (k *KMS) sealInOutage(b *branch, n int64, err error) (*branch, bool, error) {
	if b != nil && k.inOutage(err) && b.left.Add(-n) >= 0 {
		k.stats.outageUses.Add(1)
		return b, true, nil
	}
	return nil, false, err
}

// outageLasts reports whether an outage is known that began less than Config.Outage
// ago.
func (k *KMS) outageLasts() bool {
	since := k.outage.Load()
	return since != 0 && k.cfg.Now().UnixNano()-since < int64(k.cfg.Outage)
}

// inOutage reports whether err says that the root is out, and the outage began
// less than Config.Outage ago.
func (k *KMS) inOutage(err error) bool {
	return errors.Is(err, ErrUnavailable) && k.outageLasts()
}

// opening returns the branch key that a ciphertext carries, from memory or, once
// however many wait for it, from the root.
//
// In direct mode each operation is to be one of the root's, so that nothing is
// kept or taken from memory. epoch is as in sealing. outage says that the branch key
// is past its life.
func (k *KMS) opening(ctx context.Context, r *record, epoch uint64, h envelope.Header, v version, wrapped []byte) (b *branch, outage bool, err error) {
	if k.mode(r) == envelope.Direct {
		b, err = k.openWrapped(ctx, h, v, wrapped, 0)
		return b, false, err
	}
	now := k.cfg.Now().UnixNano()
	b = k.held(r, h, wrapped, now)
	if b != nil && now < b.until {
		k.stats.branchHits.Add(1)
		b.touch(now)
		return b, false, nil
	}
	if b != nil && k.outageLasts() {
		if b.trying.CompareAndSwap(false, true) {
			go k.openAgain(ctx, b, epoch, h, v)
		}
		k.stats.outageUses.Add(1)
		return b, true, nil
	}
	opened, err := k.awaitOpened(ctx, epoch, h, v, string(wrapped), now)
	if err != nil && b != nil && ctx.Err() == nil && k.inOutage(err) {
		k.stats.outageUses.Add(1)
		return b, true, nil
	}
	return opened, false, err
}

// openAgain asks the root for a branch key past its life that goes on in an outage.
func (k *KMS) openAgain(ctx context.Context, b *branch, epoch uint64, h envelope.Header, v version) {
	defer b.trying.Store(false)
	if _, err := k.awaitOpened(context.WithoutCancel(ctx), epoch, h, v, string(b.wrapped), k.cfg.Now().UnixNano()); err != nil {
		time.Sleep(time.Second) // while the root is down each try costs a time-out
	}
}

// awaitOpened waits for a branch key that the root is asked for, once however many
// wait.
func (k *KMS) awaitOpened(ctx context.Context, epoch uint64, h envelope.Header, v version, own string, now int64) (*branch, error) {
	return share(ctx, k, "open "+string(h.Append(nil))+own, "a branch key", func(ctx context.Context) (*branch, error) {
		// Another call may have opened it since this one looked.
		if b := k.opened.get(h, []byte(own)); b != nil && now < b.until {
			return b, nil
		}
		k.stats.branchMisses.Add(1)
		b, err := k.openWrapped(ctx, h, v, []byte(own), k.cfg.OpenedLifetime)
		if err == nil {
			k.keep(b, epoch)
		}
		return b, err
	})
}

// held returns the branch key of a ciphertext that is in memory, maybe past its life,
// or nil. The one that this node seals with now may have been evicted from the
// others: with many keys in use there are more than Config.MaxOpened.
func (k *KMS) held(r *record, h envelope.Header, wrapped []byte, now int64) *branch {
	own := r.sealer.current.Load()
	if own == nil || own.header != h || !bytes.Equal(own.wrapped, wrapped) {
		return k.opened.get(h, wrapped)
	}
	if now >= own.until { // it stays for an outage; maybe it was opened anew
		if b := k.opened.get(h, wrapped); b != nil {
			return b
		}
	}
	return own
}

func (k *KMS) openWrapped(ctx context.Context, h envelope.Header, v version, wrapped []byte, lifetime time.Duration) (*branch, error) {
	key, err := k.rootDecrypt(ctx, v.Handle, wrapped, envelope.WrapAdditionalData(h, k.cfg.Cluster))
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if len(key) != KeySize {
		return nil, fmt.Errorf("%w: branch key of %d bytes", ErrCiphertext, len(key))
	}
	return k.newBranch(h, wrapped, key, lifetime)
}

// keep puts b into the cache of opened branch keys, until its life, and the
// time that it may serve on in an outage, is over.
func (k *KMS) keep(b *branch, epoch uint64) {
	k.opened.put(b, epoch, k.cfg.MaxOpened, time.Duration(b.until-b.born)+k.cfg.Outage)
}

// forgetBranches forgets all branch keys of a record, also those that are being
// made or opened now: whoever makes one looks at the epoch after he has put it
// in its place, and remembers that of before he asked the root for anything.
func (k *KMS) forgetBranches(r *record) {
	k.opened.purge(r.ID)
	if r.sealer != nil {
		r.sealer.forget()
	}
}

// seal returns the ciphertext of plaintext under b.
func (b *branch) seal(cluster ClusterID, plaintext, additionalData []byte) []byte {
	size := envelope.BranchSize(len(b.wrapped), len(plaintext))
	return envelope.AppendBranch(make([]byte, 0, size), b.header, cluster, b.wrapped, b.aead, plaintext, additionalData)
}

// touch remembers that b was used, to the second: a store for each request would
// have all cores write one place.
func (b *branch) touch(now int64) {
	if now-b.used.Load() > int64(time.Second) {
		b.used.Store(now)
	}
}
