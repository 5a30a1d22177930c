package keystore

import (
	"context"
	"fmt"
)

// What every driver refuses before it touches its store, so that all refuse the
// same and with the same errors.

// CheckAlive returns ErrUnavailable, with the cause, if ctx has ended: a call that
// nobody waits for does nothing.
func CheckAlive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil
}

// Check is for a Get or a Delete: ErrName for a name that is not a ValidName, else
// CheckAlive.
func Check(ctx context.Context, name string) error {
	if !ValidName(name) {
		return ErrName
	}
	return CheckAlive(ctx)
}

// CheckWrite is for a Create or an Update: Check, and ErrCorrupt for a record of
// more than MaxRecordSize bytes.
func CheckWrite(ctx context.Context, name string, record []byte) error {
	if err := Check(ctx, name); err != nil {
		return err
	}
	if len(record) > MaxRecordSize {
		return fmt.Errorf("%w: record has %d bytes, more than %d", ErrCorrupt, len(record), MaxRecordSize)
	}
	return nil
}

// CheckList is for a List: ErrName unless both are ValidPrefix, else CheckAlive.
func CheckList(ctx context.Context, prefix, after string) error {
	if !ValidPrefix(prefix) || !ValidPrefix(after) {
		return ErrName
	}
	return CheckAlive(ctx)
}
