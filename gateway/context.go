package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A requestContext ends with the client or with the route's time. Few requests
// ever wait for anything, so that its timer is made for those that do.
type requestContext struct {
	context.Context           // of the client
	end             time.Time // of the route's time; zero: none

	mu     sync.Mutex
	timed  atomic.Pointer[context.Context] // Context with a timer, once Done was called
	cancel context.CancelFunc              // of timed
}

func (c *requestContext) Deadline() (time.Time, bool) { return c.end, !c.end.IsZero() }

func (c *requestContext) Done() <-chan struct{} {
	if c.end.IsZero() {
		return c.Context.Done()
	}
	return c.timer().Done()
}

func (c *requestContext) Err() error {
	if t := c.timed.Load(); t != nil {
		return (*t).Err()
	}
	err := c.Context.Err()
	if err == nil && !c.end.IsZero() && !time.Now().Before(c.end) {
		return context.DeadlineExceeded
	}
	return err
}

// Value finds in timed what package context asks for, so that a context that is
// made of c needs no goroutine to follow it.
func (c *requestContext) Value(key any) any {
	if t := c.timed.Load(); t != nil {
		return (*t).Value(key)
	}
	return c.Context.Value(key)
}

func (c *requestContext) timer() context.Context {
	if t := c.timed.Load(); t != nil {
		return *t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.timed.Load(); t != nil {
		return *t
	}
	timed, cancel := context.WithDeadline(c.Context, c.end)
	c.cancel = cancel
	c.timed.Store(&timed)
	return timed
}

// release ends the context.
func (c *requestContext) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cancel != nil {
		c.cancel()
	}
}
