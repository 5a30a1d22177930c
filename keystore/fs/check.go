package fs

import (
	"context"

	"github.com/keygate/keygate/keystore"
)

// alive returns ErrUnavailable, with the cause, when ctx has ended.
func alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return unavailable("%w", err)
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
		return corrupt("record has %d bytes, more than %d", len(record), keystore.MaxRecordSize)
	}
	return nil
}
