package kms

import (
	"time"

	"context"
	"slices"
)

// SetOperations stores how many operations of a key's newest version are
// reserved.
func (k *KMS) SetOperations(ctx context.Context, name string, n uint64) error {
	r, rev, err := k.read(ctx, name)
	if err != nil {
		return err
	}
	next := *r
	next.Versions = slices.Clone(r.Versions)
	next.Versions[len(next.Versions)-1].Reserved = n
	return k.replace(ctx, &next, rev)
}

// StandStill has k find that its process has not run for d.
func (k *KMS) StandStill(d time.Duration) { k.follow.beat.Add(-int64(d)) }
