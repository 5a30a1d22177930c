package hsm

import (
	"container/list"
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
)

var (
	errQueueFull = fmt.Errorf("hsm: too many calls wait for a session: %w", kms.ErrUnavailable)
	errBusy      = fmt.Errorf("hsm: no session is free in time: %w", kms.ErrUnavailable)
	errStalled   = fmt.Errorf("hsm: the module does not answer: %w", kms.ErrUnavailable)
	errClosed    = fmt.Errorf("hsm: the root is closed: %w", kms.ErrUnavailable)
)

// A task is what call runs on a worker. It may use no memory that the caller of
// the root owns, since it may outlive the call.
type task[T any] struct {
	run     func(*worker) (T, error)
	discard func(T) // if not nil, gets what run returned, also with an error, when nobody waits for it any longer
	end     func()  // if not nil, is called once when run has returned or never will be called
	slow    bool    // it may take long where no other call does: its caller waits until his deadline
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
	if !c.state.CompareAndSwap(jobRunning, jobDone) && c.task.discard != nil {
		c.task.discard(c.result)
	}
}

// call runs t and returns what it returned, or ErrUnavailable at the end of ctx,
// or before, if t cannot begin in the time that the pool's queue allows, or the
// module has stopped to answer. A task that has not begun then never does.
func call[T any](ctx context.Context, p *pool, t task[T]) (T, error) {
	var none T
	w := waits.Get().(*waiting)
	c := &called[T]{task: t, job: job{done: w.done, caller: kms.CallerOf(ctx)}}
	c.run = c.runOn
	if refused := p.queue.push(&c.job, remaining(ctx)); refused != nil {
		p.full.Add(1)
		c.end()
		waits.Put(w)
		return none, refused
	}
	reason := w.until(ctx, p.quit, p.queue.wait)
	if reason != nil && c.state.CompareAndSwap(jobWaiting, jobLeft) {
		if reason == errBusy {
			p.full.Add(1)
		}
		p.queue.remove(&c.job)
		c.end()
		return none, reason
	}
	if reason != nil { // it runs, and a pool that closes waits for it
		reason = c.outcome(ctx, w, p.queue)
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

// outcome waits for a call that runs, for as long as other calls begin and end, or,
// if it is slow, until the end of ctx.
func (c *called[T]) outcome(ctx context.Context, w *waiting, q *queue) error {
	for {
		err := w.until(ctx, nil, max(q.wait/4, 1))
		if err != errBusy {
			return err
		}
		if !c.task.slow && q.hangs() {
			return errStalled
		}
	}
}

// remaining returns the time to the end of ctx.
func remaining(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return time.Until(end)
	}
	return math.MaxInt64
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

	caller string
	line   *line         // under queue.mu
	place  *list.Element // nil: it waits no longer
}

const (
	jobWaiting int32 = iota
	jobRunning
	jobDone
	jobLeft // the caller no longer waits
)
