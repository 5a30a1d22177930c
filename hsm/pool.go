package hsm

import (
	"context"

	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
)

// A pool runs calls of the module on a bounded number of goroutines, since a
// call in C that hangs cannot be ended and holds an operating system thread:
// the caller leaves at its deadline, the goroutine is written off as lost, and
// another takes its place, as long as there are spares.
type pool struct {
	size    int
	spares  int           // lost workers that are replaced
	hung    time.Duration // a call that takes longer is lost
	queue   chan *job
	quit    chan struct{}
	running sync.WaitGroup

	calls atomic.Uint64
	full  atomic.Uint64 // calls refused because the queue was full

	mu      sync.Mutex
	workers map[*worker]bool
	lost    int    // workers that hang now
	written uint64 // workers that were ever written off
}

// A worker is one goroutine of a pool and the session that it owns.
type worker struct {
	session session
	since   atomic.Int64 // when the job began, in nanoseconds since 1970; 0: none runs
	lost    bool         // under pool.mu
}

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

// queueFactor is how many calls may wait for each session.
const queueFactor = 64

// newPool starts size workers. Up to spares of those that hang are replaced.
func newPool(size, spares int, hung time.Duration) *pool {
	p := &pool{size: size, spares: spares, hung: hung, queue: make(chan *job, size*queueFactor), quit: make(chan struct{}), workers: make(map[*worker]bool)}
	for range size {
		p.start()
	}
	p.running.Go(p.watch)
	return p
}

func (p *pool) start() {
	w := new(worker)
	p.workers[w] = true
	p.running.Go(func() { p.work(w) })
}

func (p *pool) work(w *worker) {
	defer w.session.close()
	for {
		select {
		case <-p.quit:
			return
		case j := <-p.queue:
			if !p.run(w, j) {
				return
			}
		}
	}
}

// run reports false if w was written off while the job ran, and its place has
// been taken.
func (p *pool) run(w *worker, j *job) bool {
	if !j.state.CompareAndSwap(jobWaiting, jobRunning) {
		return true
	}
	p.calls.Add(1)
	w.since.Store(time.Now().UnixNano())
	j.run(w)
	w.since.Store(0)
	close(j.done)
	return p.keep(w)
}

func (p *pool) keep(w *worker) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !w.lost {
		return true
	}
	w.lost = false
	p.lost--
	if len(p.workers) <= p.size {
		return true
	}
	delete(p.workers, w)
	return false
}

// watch writes off the workers that hang.
func (p *pool) watch() {
	tick := time.NewTicker(max(p.hung/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-p.quit:
			return
		case now := <-tick.C:
			p.writeOff(now)
		}
	}
}

func (p *pool) writeOff(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.workers {
		since := w.since.Load()
		if w.lost || since == 0 || now.UnixNano()-since < int64(p.hung) {
			continue
		}
		w.lost = true
		p.lost++
		p.written++
		if len(p.workers) < p.size+p.spares {
			p.start()
		}
	}
}

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
	if reason := j.wait(ctx, p.quit); reason != nil {
		if j.state.CompareAndSwap(jobWaiting, jobLeft) {
			end()
			return none, reason
		}
		if ctx.Err() != nil && j.state.CompareAndSwap(jobRunning, jobLeft) {
			return none, reason
		}
		<-j.done
	}
	return result, err
}

// wait returns nil when the job is done, or why it is no longer waited for.
func (j *job) wait(ctx context.Context, quit chan struct{}) error {
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		return waited(ctx, "wait for the module")
	case <-quit:
		if j.state.Load() == jobWaiting {
			return errClosed
		}
	}
	// The pool closes, and waits for the jobs that run.
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		return waited(ctx, "wait for the module")
	}
}

func waited(ctx context.Context, doing string) error {
	return fmt.Errorf("hsm: %s: %w: %w", doing, kms.ErrUnavailable, ctx.Err())
}

var errHung = fmt.Errorf("hsm: a call hangs in the module: %w", kms.ErrUnavailable)

// close ends the workers. It waits for the calls that run, but not for those
// that hang.
func (p *pool) close() error {
	close(p.quit)
	ended := make(chan struct{})
	go func() {
		p.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return nil
	case <-time.After(p.hung):
		return errHung
	}
}
