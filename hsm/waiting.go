package hsm

import (
	"context"
	"sync"
	"time"
)

// A waiting is what a caller waits with. It is used again by the next, unless
// its call may still send to done.
type waiting struct {
	done  chan struct{} // has room for the one message that a job sends when it is done
	timer *time.Timer
}

var waits = sync.Pool{New: func() any { return &waiting{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)} }}

// until returns nil when the job is done, or why it is no longer waited for.
func (w *waiting) until(ctx context.Context, quit chan struct{}) error {
	var gone <-chan struct{}
	var late <-chan time.Time
	if c, ok := ctx.(*within); ok {
		w.timer.Reset(time.Until(c.end))
		defer w.timer.Stop()
		gone, late = c.parent.Done(), w.timer.C
	} else {
		gone = ctx.Done()
	}
	select {
	case <-w.done:
		return nil
	case <-quit:
		return errClosed
	case <-gone:
	case <-late:
	}
	return waited(ctx, "wait for the module")
}
