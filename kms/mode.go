package kms

import (
	"context"
	"errors"
	"fmt"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore"
)

// SetMode changes how new ciphertexts of a key are made; zero means the
// gateway's own mode. Ciphertexts of either mode open as before. With Direct this
// node forgets the branch keys of the key at once, others within
// Config.RecordTTL of their next use of it.
func (k *KMS) SetMode(ctx context.Context, name string, mode envelope.Mode) (Info, error) {
	if err := validMode(mode); err != nil {
		return Info{}, err
	}
	if !keystore.ValidName(name) {
		return Info{}, ErrName
	}
	for {
		info, err := k.trySetMode(ctx, name, mode)
		if !errors.Is(err, keystore.ErrConflict) {
			return info, err
		}
		if ctx.Err() != nil {
			return Info{}, fmt.Errorf("%w: set mode: %w", ErrUnavailable, ctx.Err())
		}
	}
}

func (k *KMS) trySetMode(ctx context.Context, name string, mode envelope.Mode) (Info, error) {
	r, rev, err := k.read(ctx, name)
	if err != nil {
		return Info{}, err
	}
	if err := r.usable(); err != nil {
		return k.info(r), err
	}
	if r.Mode == mode {
		return k.info(r), nil
	}
	next := *r
	next.Mode = mode
	if err := k.replace(ctx, &next, rev); err != nil {
		return Info{}, err
	}
	return k.info(&next), nil
}

func validMode(mode envelope.Mode) error {
	if mode > envelope.Branch {
		return fmt.Errorf("%w: %v", ErrUnsupported, mode)
	}
	return nil
}

// mode returns the mode of new ciphertexts under a key.
func (k *KMS) mode(r *record) envelope.Mode {
	if r.Mode != 0 {
		return r.Mode
	}
	return k.cfg.Mode
}
