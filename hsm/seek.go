package hsm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/miekg/pkcs11"
)

// SoftHSM shows no token to whose file another process writes when the library is
// initialised, which each login does, until it is initialised again (2.6.1, measured:
// while three processes did nothing but log in, half of the initialisations showed
// none). So a token that is not there is looked for so long, with pauses that begin at
// seekPause and double up to maxSeekPause.
const (
	seekFor      = 500 * time.Millisecond
	seekPause    = 4 * time.Millisecond
	maxSeekPause = 64 * time.Millisecond
)

// A search is for a token that is not there, or is not shown.
type search struct {
	began time.Time
	pause time.Duration
}

// again waits, and reports whether to look once more after err.
func (s *search) again(ctx context.Context, err error) bool {
	if !hidden(err) {
		return false
	}
	if s.pause == 0 {
		s.began, s.pause = time.Now(), seekPause
	}
	pause := s.pause/2 + rand.N(s.pause) // those that hide it from one another part
	s.pause = min(2*s.pause, maxSeekPause)
	if time.Since(s.began)+pause > seekFor {
		return false
	}
	select {
	case <-time.After(pause):
		return true
	case <-ctx.Done():
		return false
	}
}

// hidden reports whether err is that a token is not shown, or has no PIN at this moment,
// which SoftHSM says for the same reason; neither counts as a try of the PIN.
func hidden(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Function == "C_Login" && e.Code == pkcs11.CKR_USER_PIN_NOT_INITIALIZED
	}
	e, ok := errors.AsType[*notFoundError](err)
	return ok && e.token
}

// seek runs look, with the library initialised anew each time that look does not find
// the token, unless that would end the connection of a Root that uses the library. The
// caller is in no call.
func (m *module) seek(ctx context.Context, look func() error) error {
	var s search
	for {
		gen := m.generation()
		err := look()
		if !s.again(ctx, err) || m.resets.serves() {
			return err
		}
		if resetErr := m.reinitialize(ctx, gen); resetErr != nil {
			return fmt.Errorf("%w; %w", err, resetErr)
		}
	}
}
