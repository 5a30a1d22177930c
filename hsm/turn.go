package hsm

import (
	"fmt"
	"sync"
	"time"
)

// A turn is had by so many calls at a time. It stands where a mutex would be held over
// calls of the module: one that hangs has it for good, and each call that waited for it
// would cost a session more.
type turn struct {
	held chan struct{} // has a message for each call that has the turn

	mu    sync.Mutex
	moved time.Time // when it was taken or given back last
}

// errTurn says that the calls that have the turn may hang.
var errTurn = fmt.Errorf("hsm: other calls that use private keys have not ended: %w", errBusy)

func newTurn(calls int) *turn { return &turn{held: make(chan struct{}, calls)} }

// take takes the turn, and give has to follow. It reports false when it has waited for
// so long, or when the turn has not moved for so long: only the first calls wait for
// one that hangs.
func (t *turn) take(wait time.Duration) bool {
	if t.takeNow() {
		return true
	}
	timer := time.NewTimer(wait - t.still())
	defer timer.Stop()
	select {
	case t.held <- struct{}{}: // given back just now
		return true
	case <-timer.C:
		return false
	}
}

func (t *turn) takeNow() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case t.held <- struct{}{}:
		t.moved = time.Now()
		return true
	default:
		return false
	}
}

func (t *turn) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.moved = time.Now()
	<-t.held
}

// still returns for how long the turn has not moved.
func (t *turn) still() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.moved)
}

// hangs reports whether all who may have the turn have had it for so long.
func (t *turn) hangs(long time.Duration) bool { return len(t.held) == cap(t.held) && t.still() > long }
