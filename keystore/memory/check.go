package memory

import (
	"context"
	"fmt"

	"github.com/keygate/keygate/keystore"
)

// alive returns ErrUnavailable, with the cause, when ctx has ended: a call that
// nobody waits for does nothing.
func alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
	}
	return nil
}

func check(ctx context.Context, name string) error {
	if !keystore.ValidName(name) {
		return keystore.ErrName
	}
	return alive(ctx)
}

func checkWrite(ctx context.Context, name string, record []byte) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	if len(record) > keystore.MaxRecordSize {
		return fmt.Errorf("%w: %d bytes, more than %d", keystore.ErrCorrupt, len(record), keystore.MaxRecordSize)
	}
	return nil
}

func checkList(ctx context.Context, prefix, after string) error {
	if !keystore.ValidPrefix(prefix) || !keystore.ValidPrefix(after) {
		return keystore.ErrName
	}
	return alive(ctx)
}
