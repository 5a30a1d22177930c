package kms

import (
	"context"
	"errors"
	"fmt"
)

// What a node holds in memory it has verified, and the store can be restored
// from an older copy, or written, under its eyes: that must never look like a
// key that does not exist, as a client would make a new one under its name.

// removes reports whether records can go away at all. With a deletion window
// they do not: whatever a node has seen stays, on all nodes, for ever.
func (k *KMS) removes() bool { return k.cfg.DeletionWindow < 0 }

// follows refuses a record that cannot come after what this node has seen under
// its name.
func (k *KMS) follows(old *cached, r *record) error {
	switch {
	case old == nil || old.last == nil:
		return nil
	case old.last.ID == r.ID && r.Generation < old.last.Generation:
		return fmt.Errorf("%w: generation %d was stored after generation %d", ErrCorrupt, r.Generation, old.last.Generation)
	case old.last.ID != r.ID && !k.removes():
		return fmt.Errorf("%w: another key, %v, took the name of key %v", ErrCorrupt, r.ID, old.last.ID)
	}
	return nil
}

// absent is what it means that the store has no record of a name.
func (k *KMS) absent(old *cached, err error) error {
	if errors.Is(err, ErrKeyNotFound) && old != nil && old.last != nil && !k.removes() {
		return fmt.Errorf("%w: the record of key %v has vanished", ErrCorrupt, old.last.ID)
	}
	return err
}

// readError counts and reports what is an alarm, and forgets what was removed.
// What vanished is not forgotten: it stays an alarm.
func (k *KMS) readError(ctx context.Context, name string, old *cached, err error) error {
	err = k.absent(old, err)
	switch {
	case errors.Is(err, ErrKeyNotFound):
		if old == nil {
			break
		}
		k.records.swap(name, old, &cached{})
		if old.last != nil {
			k.forgetBranches(old.last)
		}
	case errors.Is(err, ErrCorrupt):
		k.stats.corruptRecords.Add(1)
		k.cfg.Logger.ErrorContext(ctx, "kms: ALARM: a key record is not what was stored", "key", name, "error", err)
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrDenied):
		k.stats.storeErrors.Add(1)
	}
	return err
}
