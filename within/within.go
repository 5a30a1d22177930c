// Package within has a context that ends at a time and costs no timer until
// somebody waits for it. Most requests never wait: a timer that is made, moved and
// stopped for each is a tenth of the time of a call of a fast token.
package within

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A Context ends with its parent, at a time, or when Stop is called, whichever is
// first. Begin comes before all else. It is safe for concurrent use, and must not be
// copied.
type Context struct {
	parent context.Context
	end    time.Time // zero: none

	mu     sync.Mutex
	over   bool
	real   atomic.Pointer[context.Context] // parent with a timer, once Done was called
	cancel context.CancelFunc              // of real
}

var _ context.Context = (*Context)(nil)

// Begin has c end with parent, or at end, if that is not zero and sooner.
func (c *Context) Begin(parent context.Context, end time.Time) {
	c.parent, c.end = parent, end
	if sooner, ok := parent.Deadline(); ok && (end.IsZero() || sooner.Before(end)) {
		c.end = sooner
	}
}

// Parent returns what Begin was given, for those who wait with a timer of their own.
func (c *Context) Parent() context.Context { return c.parent }

// Deadline returns the time, and whether there is one.
func (c *Context) Deadline() (time.Time, bool) { return c.end, !c.end.IsZero() }

// Done returns a channel that is closed at the end.
func (c *Context) Done() <-chan struct{} {
	if real := c.real.Load(); real != nil {
		return (*real).Done()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	real := c.real.Load()
	if real == nil {
		made, cancel := c.timed()
		if c.over {
			cancel()
		}
		c.cancel, real = cancel, &made
		c.real.Store(real)
	}
	return (*real).Done()
}

func (c *Context) timed() (context.Context, context.CancelFunc) {
	if c.end.IsZero() {
		return context.WithCancel(c.parent)
	}
	return context.WithDeadline(c.parent, c.end)
}

// Err returns why c has ended, or nil.
func (c *Context) Err() error {
	if real := c.real.Load(); real != nil {
		return (*real).Err()
	}
	if err := c.parent.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
		return context.Canceled
	case !c.end.IsZero() && !time.Now().Before(c.end):
		return context.DeadlineExceeded
	}
	return nil
}

// Value finds in the timer's context what package context asks for, so that a
// context that is made of c needs no goroutine to follow it.
func (c *Context) Value(key any) any {
	if real := c.real.Load(); real != nil {
		return (*real).Value(key)
	}
	return c.parent.Value(key)
}

// Stop ends c.
func (c *Context) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	if c.cancel != nil {
		c.cancel()
	}
}
