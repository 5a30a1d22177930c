package hsm

import (
	"context"
	"sync"
	"time"
)

// A within is a context that ends with its parent or at a time, whichever is
// first. Other than that of context.WithDeadline it costs no timer until
// somebody waits for it: an operation whose key is loaded never does, and with
// a fast token the timer was a tenth of its time.
type within struct {
	parent context.Context
	end    time.Time

	mu     sync.Mutex
	real   context.Context // made by the first Done
	cancel context.CancelFunc
	over   bool
}

var _ context.Context = (*within)(nil)

// newWithin returns a context that ends after d at the latest. Its stop must be
// called.
func newWithin(parent context.Context, d time.Duration) *within {
	end := time.Now().Add(d)
	if sooner, ok := parent.Deadline(); ok && sooner.Before(end) {
		end = sooner
	}
	return &within{parent: parent, end: end}
}

func (c *within) Deadline() (time.Time, bool) { return c.end, true }
func (c *within) Value(key any) any           { return c.parent.Value(key) }

func (c *within) Err() error {
	if err := c.parent.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.real != nil:
		return c.real.Err()
	case c.over:
		return context.Canceled
	case !time.Now().Before(c.end):
		return context.DeadlineExceeded
	}
	return nil
}

func (c *within) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil {
		c.real, c.cancel = context.WithDeadline(c.parent, c.end)
		if c.over {
			c.cancel()
		}
	}
	return c.real.Done()
}

// stop ends c.
func (c *within) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
}
