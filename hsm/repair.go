package hsm

import (
	"context"
	"sync"
	"time"
)

// How the connection to the token is repaired.
const (
	// connectTimeout bounds one attempt.
	connectTimeout = 10 * time.Second
	// After a failed attempt, calls fail at once for so long.
	firstPause, lastPause = 50 * time.Millisecond, time.Second
	// maxHung is how many attempts may hang in the module before no other is
	// made.
	maxHung = 4
)

// A repair makes links, one at a time however many calls need one.
type repair struct {
	mu      sync.Mutex
	attempt *attempt // the one that runs
	hung    int
	pause   time.Duration
	after   time.Time // no attempt before
	err     error     // why the last one failed
	stopped bool
	known   *memory
	done    sync.WaitGroup

	links    uint64
	failures uint64 // since the last link
	failed   uint64 // before that
}

type attempt struct {
	done chan struct{}
	link *link
	err  error
}

// connected returns a link that can be used, and makes one if there is none.
func (r *Root) connected(ctx context.Context) (*link, error) {
	if l := r.link.Load(); l.usable() {
		return l, nil
	}
	a, err := r.join()
	if err != nil {
		return nil, err
	}
	select {
	case <-a.done:
		return a.link, a.err
	case <-ctx.Done():
		return nil, waited(ctx, "wait for the connection to the token")
	}
}

// join returns the attempt that runs, and starts it if there is none.
func (r *Root) join() (*attempt, error) {
	p := &r.repair
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := r.link.Load(); l.usable() {
		a := &attempt{done: make(chan struct{}), link: l}
		close(a.done)
		return a, nil
	}
	if p.attempt != nil {
		return p.attempt, nil
	}
	if p.stopped {
		return nil, errClosed
	}
	if p.hung >= maxHung || time.Now().Before(p.after) {
		return nil, p.err
	}
	a := &attempt{done: make(chan struct{})}
	p.attempt = a
	p.done.Go(func() { r.attempt(a) })
	return a, nil
}

// attempt makes a link, or gives up at connectTimeout: then it may hang in the
// module, and what it makes in the end is thrown away.
func (r *Root) attempt(a *attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	made := make(chan struct{})
	r.repair.done.Go(func() {
		defer close(made)
		defer cancel()
		l, err := r.connect(ctx)
		r.finish(a, l, err)
	})
	select {
	case <-made:
	case <-ctx.Done():
		if r.finish(a, nil, waited(ctx, "connect to the token")) {
			r.repair.hangs(+1)
			r.repair.done.Go(func() { <-made; r.repair.hangs(-1) })
		}
	}
}

func (p *repair) hangs(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hung += n
}

// finish ends an attempt, if it has not ended before, and reports whether it
// did.
func (r *Root) finish(a *attempt, l *link, err error) bool {
	p := &r.repair
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.attempt != a {
		if l != nil {
			go l.close()
		}
		return false
	}
	p.attempt = nil
	a.link, a.err, p.err = l, err, err
	if err != nil {
		p.failures++
		p.pause = min(max(2*p.pause, firstPause), lastPause)
		p.after = time.Now().Add(p.pause)
		if p.failures == 1 && p.links > 0 {
			r.log.Error("hsm: the token cannot be used", "error", err)
		}
	} else {
		if p.failures > 0 {
			r.log.Info("hsm: the token can be used again", "attempts", p.failures+1)
		}
		p.failed += p.failures
		p.failures = 0
		p.links++
		p.pause, p.after = 0, time.Time{}
		if old := r.link.Swap(l); old != nil {
			old.retire()
		}
	}
	close(a.done)
	return true
}

// stop lets no other attempt begin, and waits for the one that runs.
func (p *repair) stop() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		p.done.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(connectTimeout):
	}
}
