package hsm

import (
	"context"
	"errors"
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

// connect makes a link. If the token fails or is not there it tries once more
// with the module initialised anew, since some modules see only then that a
// token is back; not if the PIN is wrong or the token is refused.
func (r *Root) connect(ctx context.Context) (*link, error) {
	gen := r.module.generation()
	l, err := r.newLink(ctx, gen)
	if err == nil || !worthReset(err) {
		return l, err
	}
	if resetErr := r.module.reinitialize(ctx, gen); resetErr != nil {
		return nil, errors.Join(err, resetErr)
	}
	return r.newLink(ctx, r.module.generation())
}

func worthReset(err error) bool {
	if c, ok := classOf(err); ok {
		return c != requestFault && c != pinFault
	}
	_, missing := errors.AsType[*notFoundError](err)
	return missing || errors.Is(err, errStale)
}

// newLink logs in, finds the root keys and uses them.
func (r *Root) newLink(ctx context.Context, gen uint64) (*link, error) {
	l, err := r.newBareLink(ctx, gen, 0)
	if err != nil {
		return nil, err
	}
	if err := l.enter(ctx); err != nil {
		return nil, err
	}
	defer l.leave()
	err = l.anchor.ready(r.cfg)
	if err == nil {
		err = r.recognize(l.anchor)
	}
	if err != nil {
		l.anchor.abandon()
		return nil, err
	}
	return l, nil
}

// recognize compares the token with that of the first link.
func (r *Root) recognize(s session) (err error) {
	r.repair.mu.Lock()
	known := r.repair.known
	r.repair.mu.Unlock()
	if known != nil {
		return s.recognize(*known)
	}
	m, err := s.remember()
	if err != nil {
		return err
	}
	r.repair.mu.Lock()
	defer r.repair.mu.Unlock()
	r.repair.known = &m
	return nil
}

// newBareLink finds the token, opens a session with flags and logs in.
func (r *Root) newBareLink(ctx context.Context, gen uint64, flags uint) (_ *link, err error) {
	l := &link{module: r.module, gen: gen, limit: r.cfg.Keys, keys: make(map[string]*loaded)}
	if err := l.enter(ctx); err != nil {
		return nil, err
	}
	defer l.leave()
	if l.slot, l.token, err = findToken(r.module, r.cfg); err != nil {
		return nil, err
	}
	if l.anchor, err = l.open(flags); err != nil {
		return nil, err
	}
	if err := r.login(l.anchor); err != nil {
		l.anchor.abandon()
		return nil, err
	}
	return l, nil
}

// ready finds the root keys and uses them, or says why they are refused.
func (s session) ready(c Config) error {
	checks, err := s.examine(c)
	if err != nil {
		return err
	}
	if err := refused(checks); err != nil {
		return err
	}
	return refused(s.probe())
}
