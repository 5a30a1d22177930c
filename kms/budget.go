package kms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore"
)

// MaxOperations is how often one version of a key encrypts, on all nodes and
// for ever. Each time its nonce is random: NIST SP 800-38D 8.3.
const MaxOperations = 1 << 32

// The steps in which a node reserves operations of a version in its record. What
// a node has reserved and not used is lost when it ends, so that steps begin
// small; a step that is used up quickly is followed by one that is four times as
// large.
const (
	firstBranchStep = 1 << 6 // each operation is a branch key, good for up to an hour
	firstDirectStep = 1 << 12
	maxStep         = 1 << 22
	quickStep       = time.Minute

	// creationOperations are reserved in a new record, for what proves the key,
	// and firstBranchStep with them, for the node that makes it.
	creationOperations = 16
	// nearLimit is how much of a version is reserved when operators are told.
	nearLimit = MaxOperations / 4 * 3
	// maxReserveTries bounds how often other nodes may come first.
	maxReserveTries = 32
)

// A budget is what this node may still encrypt with one version of a key.
type budget struct {
	left  atomic.Int64
	low   atomic.Int64 // at which the next step is reserved ahead
	ahead atomic.Bool  // that is being done

	// Of the last step; belongs to the one flight that reserves.
	step int64
	at   time.Time
}

// take takes n operations and returns what is left.
func (b *budget) take(n int64) (left int64, ok bool) {
	for {
		left = b.left.Load()
		if left < n {
			return left, false
		}
		if b.left.CompareAndSwap(left, left-n) {
			return left - n, true
		}
	}
}

// spend takes n operations of the newest version of r, which the caller then
// may do. It returns ErrExhausted if there will never be as many.
func (k *KMS) spend(ctx context.Context, r *record, n int64) error {
	b := r.budget
	for {
		left, ok := b.take(n)
		if !ok {
			if err := k.awaitBudget(ctx, r, n); err != nil {
				return err
			}
			continue
		}
		if left < b.low.Load() && b.ahead.CompareAndSwap(false, true) {
			go k.reserveAhead(ctx, r, left+1)
		}
		return nil
	}
}

// awaitBudget reserves a step, once however many wait for it, and each waits only
// as long as its own context allows.
func (k *KMS) awaitBudget(ctx context.Context, r *record, n int64) error {
	key := fmt.Sprintf("reserve %v %d", r.ID, r.newest().Number)
	_, err := share(ctx, k, key, "operations to be reserved", func(ctx context.Context) (struct{}, error) {
		return struct{}{}, k.reserve(ctx, r, n)
	})
	return err
}

func (k *KMS) reserveAhead(ctx context.Context, r *record, n int64) {
	defer r.budget.ahead.Store(false)
	err := k.awaitBudget(context.WithoutCancel(ctx), r, n)
	if errors.Is(err, ErrExhausted) {
		r.budget.low.Store(0)
		return
	}
	if err != nil {
		k.cfg.Logger.Warn("kms: operations of a key could not be reserved ahead; it will be tried again", "key", r.Name, "error", err)
		// Not at once again: while the store is down each try costs a time-out.
		time.Sleep(time.Second)
	}
}

// reserve takes a step, and at least n operations, out of the record's version.
// If it fails half way the step may be lost, and is never given twice.
func (k *KMS) reserve(ctx context.Context, r *record, n int64) error {
	b := r.budget
	if b.left.Load() >= n {
		return nil
	}
	for range maxReserveTries {
		stored, rev, err := k.read(ctx, r.Name)
		if err != nil {
			return err
		}
		if err := stored.usable(); err != nil {
			return err
		}
		if stored.ID != r.ID {
			return fmt.Errorf("%w: the key was replaced by another", ErrUnavailable)
		}
		next, got, err := stored.reserving(r.newest().Number, max(n-b.left.Load(), k.nextStep(r)), n-b.left.Load())
		if err != nil {
			return err
		}
		err = k.replace(ctx, next, rev)
		if errors.Is(err, keystore.ErrConflict) {
			continue // another node was first
		}
		if err != nil {
			return err
		}
		k.reserved(next, b, got)
		return nil
	}
	return fmt.Errorf("%w: reserve operations: other nodes were first %d times", ErrUnavailable, maxReserveTries)
}

// nextStep returns how many operations to reserve.
func (k *KMS) nextStep(r *record) int64 {
	b := r.budget
	switch {
	case b.step != 0 && k.cfg.Now().Sub(b.at) < quickStep:
		return min(4*b.step, maxStep)
	case b.step != 0:
		return b.step
	case k.mode(r) == envelope.Branch:
		return firstBranchStep
	}
	return firstDirectStep
}

// reserving returns a copy of r in which up to step more operations of a version
// are reserved, but not fewer than need, and how many they are.
func (r *record) reserving(number uint32, step, need int64) (next *record, got int64, err error) {
	i := slices.IndexFunc(r.Versions, func(v version) bool { return v.Number == number })
	if i < 0 {
		return nil, 0, fmt.Errorf("%w: version %d is gone", ErrUnavailable, number)
	}
	got = min(step, int64(MaxOperations-min(r.Versions[i].Reserved, MaxOperations)))
	if got == 0 || got < need {
		return nil, 0, fmt.Errorf("%w: %d of %d operations of version %d are reserved", ErrExhausted, r.Versions[i].Reserved, uint64(MaxOperations), number)
	}
	copied := *r
	copied.Versions = slices.Clone(r.Versions)
	copied.Versions[i].Reserved += uint64(got)
	return &copied, got, nil
}

// reserved makes a step that is in the store this node's to spend.
func (k *KMS) reserved(stored *record, b *budget, got int64) {
	b.step, b.at = got, k.cfg.Now()
	b.low.Store(got / 4)
	b.left.Add(got)
	if all := stored.newest().Reserved; all >= nearLimit {
		k.cfg.Logger.Warn("kms: a key is near its limit of operations: rotate it", "key", stored.Name, "operations", all, "limit", uint64(MaxOperations))
	}
}
