package hsm

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keygate/keygate/kms"
)

// How the connection to the token is repaired.
const (
	// connectTimeout bounds one attempt.
	connectTimeout = 10 * time.Second
	// After a failed attempt, calls fail at once for so long.
	firstPause, lastPause = 50 * time.Millisecond, time.Second
	// maxHung is how many attempts may hang in the module before no other is
	// made: of a token, and of those in a library that were never connected.
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

// linkFor returns a link for o. Where there is another token for it, it does not
// wait until one is made.
func (t *token) linkFor(ctx context.Context, o *op) (*link, error) {
	if l := t.link.Load(); l.usable() {
		return l, nil
	}
	if !o.once {
		return t.connected(ctx)
	}
	if _, err := t.join(); err != nil {
		return nil, err
	}
	return nil, errConnecting
}

var errConnecting = fmt.Errorf("hsm: the connection to the token is being made: %w", kms.ErrUnavailable)

// connected returns a link that can be used, and makes one if there is none.
func (t *token) connected(ctx context.Context) (*link, error) {
	if l := t.link.Load(); l.usable() {
		return l, nil
	}
	a, err := t.join()
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
func (t *token) join() (*attempt, error) {
	p := &t.repair
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := t.link.Load(); l.usable() {
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
	p.done.Go(func() { t.attempt(a) })
	return a, nil
}

// attempt makes a link, or gives up at connectTimeout: then it may hang in the
// module, and what it makes in the end is thrown away.
func (t *token) attempt(a *attempt) {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	made := make(chan struct{})
	t.repair.done.Go(func() {
		defer close(made)
		defer cancel()
		l, err := t.connect(ctx)
		t.finish(a, l, err)
	})
	select {
	case <-made:
	case <-ctx.Done():
		if t.finish(a, nil, waited(ctx, "connect to the token")) {
			t.repair.hangs(+1)
			t.repair.done.Go(func() { <-made; t.repair.hangs(-1) })
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
func (t *token) finish(a *attempt, l *link, err error) bool {
	p := &t.repair
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
			t.log.Error("hsm: the token cannot be used", "error", err)
		}
	} else {
		if p.failures > 0 {
			t.log.Info("hsm: the token can be used again", "attempts", p.failures+1)
		}
		p.failed += p.failures
		p.failures = 0
		p.links++
		p.pause, p.after = 0, time.Time{}
		if old := t.link.Swap(l); old != nil {
			old.retire()
		}
	}
	close(a.done)
	return true
}

// halt lets no other attempt begin.
func (p *repair) halt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
}

// stop lets no other attempt begin, and waits for the one that runs.
func (p *repair) stop() {
	p.halt()
	ends(&p.done, connectTimeout)
}
