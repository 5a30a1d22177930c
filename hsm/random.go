package hsm

import (
	"fmt"

	"github.com/keygate/keygate/kms"
)

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
