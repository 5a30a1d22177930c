package hsm

import (
	"context"
	"fmt"

	"github.com/keygate/keygate/kms"
)

// Random fills b from the token's random source; see kms.Root.
func (r *Root) Random(ctx context.Context, b []byte) error {
	if len(b) > kms.MaxRandom {
		return fmt.Errorf("hsm: %d random bytes at once: %w", len(b), kms.ErrUnsupported)
	}
	size := len(b)
	random, err := run(ctx, r, operation[[]byte]{
		run:     func(s session, _ *loaded, _, _ []byte) ([]byte, error) { return s.random(size) },
		discard: func(late []byte) { clear(late) },
	})
	if err != nil {
		return err
	}
	defer clear(random)
	copy(b, random)
	return nil
}

func (s session) random(size int) ([]byte, error) {
	random, err := s.link.module.ctx.GenerateRandom(s.handle, size)
	if err != nil {
		return nil, answered("C_GenerateRandom", err)
	}
	if len(random) != size {
		clear(random)
		return nil, fmt.Errorf("hsm: C_GenerateRandom: %d bytes, not %d: %w", len(random), size, kms.ErrUnavailable)
	}
	return random, nil
}
