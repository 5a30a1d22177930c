package kms

import (
	"context"
	"fmt"
	"runtime/debug"
)

// share runs do once, however many ask for the same key while it runs. Each waits
// only as long as its own context allows, for what, and do ends with none of
// them. Names of keys are keys of their own; others have a space.
func share[T any](ctx context.Context, k *KMS, key, what string, do func(context.Context) (T, error)) (T, error) {
	result := k.fetches.DoChan(key, func() (v any, err error) {
		defer recovered(&err)
		return do(context.WithoutCancel(ctx))
	})
	var none T
	select {
	case <-ctx.Done():
		return none, fmt.Errorf("%w: wait for %s: %w", ErrUnavailable, what, ctx.Err())
	case res := <-result:
		if res.Err != nil {
			return none, res.Err
		}
		return res.Val.(T), nil
	}
}

// guarded runs do, whose panic is an error.
func guarded(do func() error) (err error) {
	defer recovered(&err)
	return do()
}

// recovered, deferred, makes a panic an error: on a goroutine of this package's
// it would end the process, and all requests with it.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("kms: panic: %v\n%s", p, debug.Stack())
	}
}
