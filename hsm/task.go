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

// call runs t and returns what it returned, or ErrUnavailable at the end of
// ctx. A task that has not begun then never does.
func call[T any](ctx context.Context, p *pool, t task[T]) (T, error) {
	var result, none T
	var err error
	end := func() {
		if t.end != nil {
			t.end()
		}
	}
	j := &job{done: make(chan struct{})}
	j.run = func(w *worker) {
		defer end()
		result, err = t.run(w)
		if !j.state.CompareAndSwap(jobRunning, jobDone) && err == nil && t.discard != nil {
			t.discard(result)
		}
	}
	select {
	case p.queue <- j:
	default:
		p.full.Add(1)
		end()
		return none, errQueueFull
	}
	reason := j.wait(ctx, p.quit)
	if reason == nil {
		return result, err
	}
	if j.state.CompareAndSwap(jobWaiting, jobLeft) {
		end()
		return none, reason
	}
	// It runs, and a pool that closes waits for it.
	if reason = j.wait(ctx, nil); reason != nil && j.state.CompareAndSwap(jobRunning, jobLeft) {
		return none, reason
	}
	<-j.done
	return result, err
}

// wait returns nil when the job is done, or why it is no longer waited for.
func (j *job) wait(ctx context.Context, quit chan struct{}) error {
	select {
	case <-j.done:
		return nil
	case <-quit:
		return errClosed
	case <-ctx.Done():
		return waited(ctx, "wait for the module")
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
}

const (
	jobWaiting int32 = iota
	jobRunning
	jobDone
	jobLeft // the caller no longer waits
)
