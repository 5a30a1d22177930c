package hsm

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/keygate/keygate/kms"
)

var (
	errQueueFull = fmt.Errorf("hsm: too many calls wait for a session: %w", kms.ErrUnavailable)
	errClosed    = fmt.Errorf("hsm: the root is closed: %w", kms.ErrUnavailable)
)

// A task is what call runs on a worker. It may use no memory that the caller of
// the root owns, since it may outlive the call.
type task[T any] struct {
	run     func(*worker) (T, error)
	discard func(T) // if not nil, gets a result that nobody waits for any longer
	end     func()  // if not nil, is called once when run has returned or never will be called
}

// A called is a task that was given to a pool.
type called[T any] struct {
	job
	task   task[T]
	result T
	err    error
}

func (c *called[T]) end() {
	if c.task.end != nil {
		c.task.end()
	}
}

func (c *called[T]) runOn(w *worker) {
	defer c.end()
	c.result, c.err = c.task.run(w)
	if !c.state.CompareAndSwap(jobRunning, jobDone) && c.err == nil && c.task.discard != nil {
		c.task.discard(c.result)
	}
}

// call runs t and returns what it returned, or ErrUnavailable at the end of
// ctx. A task that has not begun then never does.
func call[T any](ctx context.Context, p *pool, t task[T]) (T, error) {
	var none T
	w := waits.Get().(*waiting)
	c := &called[T]{task: t, job: job{done: w.done}}
	c.run = c.runOn
	select {
	case p.queue <- &c.job:
	default:
		p.full.Add(1)
		c.end()
		return none, errQueueFull
	}
	reason := w.until(ctx, p.quit)
	if reason != nil && c.state.CompareAndSwap(jobWaiting, jobLeft) {
		c.end()
		return none, reason
	}
	if reason != nil { // it runs, and a pool that closes waits for it
		reason = w.until(ctx, nil)
	}
	if reason != nil {
		if c.state.CompareAndSwap(jobRunning, jobLeft) {
			return none, reason
		}
		<-w.done
	}
	waits.Put(w)
	return c.result, c.err
}

func waited(ctx context.Context, doing string) error {
	return fmt.Errorf("hsm: %s: %w: %w", doing, kms.ErrUnavailable, ctx.Err())
}

var errHung = fmt.Errorf("hsm: a call hangs in the module: %w", kms.ErrUnavailable)

// A job is one call. Its buffers are its own, so that a late write of a call
// that hung meets no other's memory.
type job struct {
	run   func(*worker)
	state atomic.Int32
	done  chan struct{} // gets one message when run has returned
}

const (
	jobWaiting int32 = iota
	jobRunning
	jobDone
	jobLeft // the caller no longer waits
)
