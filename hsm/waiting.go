package hsm

import (
	"context"
	"sync"
	"time"

	"github.com/keygate/keygate/within"
)

// A waiting is what a caller waits with. It is used again by the next, unless
// its call may still send to done.
type waiting struct {
	done  chan struct{} // has room for the one message that a job sends when it is done
	timer *time.Timer
}

var waits = sync.Pool{New: func() any { return &waiting{done: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)} }}

// until returns nil when the job is done, or why it is no longer waited for: the
// end of ctx, quit, or, as errBusy, that patience is over.
func (w *waiting) until(ctx context.Context, quit chan struct{}, patience time.Duration) error {
	gone, left := ctx.Done, patience
	if c, ok := ctx.(*within.Context); ok {
		end, _ := c.Deadline()
		gone, left = c.Parent().Done, min(patience, time.Until(end))
	}
	w.timer.Reset(left)
	defer w.timer.Stop()
	select {
	case <-w.done:
		return nil
	case <-quit:
		return errClosed
	case <-gone():
	case <-w.timer.C:
		if left == patience && ctx.Err() == nil {
			return errBusy
		}
	}
	return waited(ctx, "wait for the module")
}
