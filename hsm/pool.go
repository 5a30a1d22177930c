package hsm

import (
	"sync"
	"sync/atomic"
	"time"
)

// A pool runs calls of the module on a bounded number of goroutines, since a
// call in C that hangs cannot be ended and holds an operating system thread:
// the caller leaves at its deadline, the goroutine is written off as lost, and
// another takes its place, as long as there are spares.
type pool struct {
	size    int
	spares  int           // lost workers that are replaced
	hung    time.Duration // a call that takes longer is lost
	queue   *queue
	quit    chan struct{}
	running sync.WaitGroup

	calls atomic.Uint64
	full  atomic.Uint64 // calls refused because too many waited, or would have waited too long

	mu      sync.Mutex
	workers map[*worker]bool
	lost    int    // workers that hang now
	written uint64 // workers that were ever written off
}

// A worker is one goroutine of a pool and the session that it owns.
type worker struct {
	session session
	expires time.Time    // of session
	since   atomic.Int64 // when the job began, in nanoseconds since 1970; 0: none runs; or writtenOff
}

// writtenOff is what worker.since becomes when the worker is lost.
const writtenOff = -1

// queueFactor is how many calls may wait for each session.
const queueFactor = 64

// newPool starts size workers. Up to spares of those that hang are replaced. So
// many calls may wait, each so long; zero: queueFactor for each worker, and hung.
func newPool(size, spares int, hung time.Duration, waiting Queue) *pool {
	if waiting.Calls == 0 {
		waiting.Calls = size * queueFactor
	}
	if waiting.Wait == 0 {
		waiting.Wait = hung
	}
	p := &pool{size: size, spares: spares, hung: hung, queue: newQueue(size, waiting.Calls, waiting.Wait), quit: make(chan struct{}), workers: make(map[*worker]bool)}
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
		j := p.queue.pop()
		if j == nil || !p.run(w, j) {
			return
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
	begun := time.Now()
	w.since.Store(begun.UnixNano())
	j.run(w)
	onTime := w.since.CompareAndSwap(begun.UnixNano(), 0)
	ended := time.Now()
	p.queue.ended(ended.Sub(begun), ended)
	j.done <- struct{}{}
	return onTime || p.keep(w)
}

// keep takes back a worker that was written off, if its place has not been
// taken.
func (p *pool) keep(w *worker) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.since.Store(0)
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
		if since <= 0 || now.UnixNano()-since < int64(p.hung) || !w.since.CompareAndSwap(since, writtenOff) {
			continue
		}
		p.lost++
		p.written++
		if len(p.workers) < p.size+p.spares {
			p.start()
		}
	}
}

// canLose reports whether one more worker that hangs would be replaced.
func (p *pool) canLose() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost < p.spares
}

// busyLocked returns how many workers run a job, those among them that hang.
func (p *pool) busyLocked() (n int) {
	for w := range p.workers {
		if w.since.Load() != 0 {
			n++
		}
	}
	return n
}

// close ends the workers. It waits for the calls that run, but not for those
// that hang.
func (p *pool) close() error {
	close(p.quit)
	p.queue.close()
	if !ends(&p.running, p.hung) {
		return errHung
	}
	return nil
}

// ends reports whether all of wg end in so long.
func ends(wg *sync.WaitGroup, limit time.Duration) bool {
	ended := make(chan struct{})
	go func() {
		wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return true
	case <-time.After(limit):
		return false
	}
}
