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
	discard func(T) // if not nil, gets a result that nobody waits for any longer
	end     func()  // if not nil, is called once when run has returned or never will be called
	slow    bool    // it may take long where no other call does: its caller waits until his deadline
}

// call runs t and returns what it returned, or ErrUnavailable at the end of ctx,
// or before, if t cannot begin in the time that the pool's queue allows, or the
// module has stopped to answer. A task that has not begun then never does.
func call[T any](ctx context.Context, p *pool, t task[T]) (T, error) {
	var result, none T
	var err error
	end := func() {
		if t.end != nil {
			t.end()
		}
	}
	j := &job{done: make(chan struct{}), caller: kms.CallerOf(ctx)}
	j.run = func(w *worker) {
		defer end()
		result, err = t.run(w)
		if !j.state.CompareAndSwap(jobRunning, jobDone) && err == nil && t.discard != nil {
			t.discard(result)
		}
	}
	if refused := p.queue.push(j, remaining(ctx)); refused != nil {
		p.full.Add(1)
		end()
		return none, refused
	}
	patience := time.NewTimer(p.queue.wait)
	defer patience.Stop()
	reason := j.wait(ctx, p.quit, patience.C)
	if reason == nil {
		return result, err
	}
	if j.state.CompareAndSwap(jobWaiting, jobLeft) {
		if reason == errBusy {
			p.full.Add(1)
		}
		p.queue.remove(j)
		end()
		return none, reason
	}
	// It runs, and a pool that closes waits for it.
	if reason = j.outcome(ctx, p.queue, t.slow, patience); reason != nil && j.state.CompareAndSwap(jobRunning, jobLeft) {
		return none, reason
	}
	<-j.done
	return result, err
}

// remaining returns the time to the end of ctx.
func remaining(ctx context.Context) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return time.Until(end)
	}
	return math.MaxInt64
}

// wait returns nil when the job is done, or why it is no longer waited for.
func (j *job) wait(ctx context.Context, quit <-chan struct{}, patience <-chan time.Time) error {
	select {
	case <-j.done:
		return nil
	case <-quit:
		return errClosed
	case <-ctx.Done():
		return waited(ctx, "wait for the module")
	case <-patience:
		return errBusy
	}
}

// outcome waits for a job that runs, for as long as other calls begin and end, or,
// if it is slow, until the end of ctx.
func (j *job) outcome(ctx context.Context, q *queue, slow bool, patience *time.Timer) error {
	for {
		patience.Reset(q.wait / 4)
		err := j.wait(ctx, nil, patience.C)
		if err != errBusy {
			return err
		}
		if !slow && q.hangs() {
			return errStalled
		}
	}
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
	done  chan struct{}

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
