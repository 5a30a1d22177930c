package gateway_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// A root is a root of trust on a token of its own. It can be told to
// fail, and counts what reaches it.
type root struct {
	kms.Root
	pin   string
	dir   string // of the files of tokens
	down  atomic.Bool
	hangs atomic.Bool // until the caller's context ends
	fails atomic.Bool // by a panic
	calls atomic.Int64
}

func newRoot(t testing.TB) *root {
	t.Helper()
	f := softhsm.Token(t)
	cfg := hsm.Config{Module: f.Module, Token: f.Label, PIN: hsm.PIN{File: f.PINFile}}
	_, err := hsm.Init(t.Context(), cfg)
	ok(t, err)
	r, err := hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	ok(t, err)
	t.Cleanup(func() { r.Close() })
	return &root{Root: r, pin: f.PIN, dir: f.Tokens}
}

func (r *root) call(ctx context.Context) error {
	r.calls.Add(1)
	if r.fails.Load() {
		panic("test: root panics")
	}
	if r.hangs.Load() {
		<-ctx.Done()
		return fmt.Errorf("test: root hangs: %w: %w", kms.ErrUnavailable, ctx.Err())
	}
	if r.down.Load() {
		return fmt.Errorf("test: root is down: %w", kms.ErrUnavailable)
	}
	return nil
}

func (r *root) NewKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose) ([]byte, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	return r.Root.NewKey(ctx, id, purpose)
}

func (r *root) ImportKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, key []byte) ([]byte, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	return r.Root.ImportKey(ctx, id, purpose, key)
}

func (r *root) MAC(ctx context.Context, handle, message []byte) ([kms.MACSize]byte, error) {
	if err := r.call(ctx); err != nil {
		return [kms.MACSize]byte{}, err
	}
	return r.Root.MAC(ctx, handle, message)
}

func (r *root) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	return r.Root.Encrypt(ctx, handle, plaintext, additionalData)
}

func (r *root) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	if err := r.call(ctx); err != nil {
		return nil, err
	}
	return r.Root.Decrypt(ctx, handle, ciphertext, additionalData)
}

func (r *root) Status(ctx context.Context) error {
	if err := r.call(ctx); err != nil {
		return err
	}
	return r.Root.Status(ctx)
}
