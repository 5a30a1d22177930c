package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/within"
)

// A remote is the backend that has the module in a worker process. When that ends, or
// has to be ended because it or the module hangs, another one takes its place.
type remote struct {
	cfg  Config
	log  *slog.Logger
	pin  *pinSource // outlives the workers: what one was refused, none tries again
	same *acquaintance

	clean           cleaner
	errors, retries atomic.Uint64
	life            context.Context
	end             context.CancelFunc
	ended           chan struct{} // closed when no worker is left

	mu       sync.Mutex
	process  *process      // nil: none can be used now
	err      error         // why the last one that was started cannot be used
	changed  chan struct{} // closed when process or err changes
	last     *process      // the one of late, for what it said of itself
	before   Stats         // of those before it
	restarts uint64
}

const (
	// A worker that is started has so long, beside connectTimeout, for itself.
	startTimeout = 2 * time.Second
	// steady is how long a worker lives of which the next one is started at once.
	steady = time.Second
)

var (
	errCrashed = fmt.Errorf("hsm: the worker process of the module has ended: %w", kms.ErrUnavailable)
	errDoubted = fmt.Errorf("hsm: the worker process ended while the token looked at this PIN, which it has not accepted before; it is not tried again: %w", kms.ErrUnavailable)
)

// openRemote starts a worker that connects to the token that cfg, which has its
// defaults, names.
func openRemote(ctx context.Context, cfg Config, pin *pinSource, same *acquaintance, log *slog.Logger) (*remote, error) {
	r := newRemote(cfg, pin, same, log)
	p, err := r.start(ctx)
	if err != nil {
		return nil, &openError{err, attempted(err)}
	}
	r.life, r.end = context.WithCancel(context.Background())
	r.process, r.last = p, p
	go r.keep(p)
	return r, nil
}

func newRemote(cfg Config, pin *pinSource, same *acquaintance, log *slog.Logger) *remote {
	r := &remote{cfg: cfg, log: log, pin: pin, same: same, changed: make(chan struct{}), ended: make(chan struct{})}
	r.clean = cleaner{log: log, wait: cfg.Timeout, destroy: func(ctx context.Context, o *op) error {
		_, err := r.do(ctx, o)
		return err
	}}
	return r
}

// start returns a worker that can be used.
func (r *remote) start(ctx context.Context) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout+startTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, waited(ctx, "start the worker process of the module")
	}
	p, err := startProcess(r)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.ready:
		return p, nil
	case <-p.ended:
		err = p.why()
	case <-ctx.Done():
		err = waited(ctx, "start the worker process of the module")
	}
	p.stop(err)
	p.done.Wait()
	return nil, err
}

// do does o in the worker. If that ends meanwhile and no other token is there to do o,
// it does so once more in the next one.
func (r *remote) do(ctx context.Context, o *op) ([]byte, error) {
	w := new(within.Context)
	w.Begin(ctx, time.Now().Add(r.cfg.Timeout))
	defer w.Stop()
	for again := false; ; {
		result, fate, err := r.try(w, o)
		switch {
		case fate == opDone:
			return result, err
		case fate == opLost && (again || o.once) || w.Err() != nil:
			r.errors.Add(1)
			return nil, err
		case fate == opLost:
			r.retries.Add(1)
			again = true
		}
	}
}

// try does o once. A key that the worker may have made, and that does not come from it,
// as its caller has left or it has ended, is destroyed.
func (r *remote) try(ctx context.Context, o *op) ([]byte, opFate, error) {
	o = r.cfg.numbered(o)
	result, fate, err := r.tryNumbered(ctx, o)
	r.clean.after(o, result)
	return result, fate, err
}

func (r *remote) tryNumbered(ctx context.Context, o *op) ([]byte, opFate, error) {
	if ctx.Err() != nil {
		return nil, opDone, waited(ctx, "begin")
	}
	p, err := r.reach(ctx, o)
	if err != nil {
		return nil, opDone, err
	}
	return p.do(ctx, o)
}

// reach returns a worker that can be used. It waits for one, where there is no other
// token for o.
func (r *remote) reach(ctx context.Context, o *op) (*process, error) {
	for {
		r.mu.Lock()
		p, err, changed := r.process, r.err, r.changed
		r.mu.Unlock()
		switch {
		case p != nil && p.why() == nil:
			return p, nil
		case err != nil:
			return nil, err
		case o.once:
			return nil, errConnecting
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, waited(ctx, "wait for the worker process of the module")
		}
	}
}

func (r *remote) set(p *process, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process, r.err = p, err
	if p != nil && r.last != p {
		r.before = r.before.plus(r.last.status.Load().Stats.ended())
		r.last = p
		r.restarts++
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// keep has a worker p, and then others, until life ends.
func (r *remote) keep(p *process) {
	defer close(r.ended)
	var pause time.Duration
	for p != nil {
		begun := time.Now()
		select {
		case <-r.life.Done():
			r.set(nil, errClosed)
			return
		case <-p.ended:
		}
		r.set(nil, nil)
		p.reaped()
		r.log.Error("hsm: the worker process of the module has ended; another one is started", "token", r.cfg.logName(), "pid", p.pid, "error", p.why(), "state", p.state())
		if time.Since(begun) >= steady {
			pause = 0
		}
		p, pause = r.another(pause)
	}
	r.set(nil, errClosed)
}

// another starts workers, with ever longer pauses, until one can be used or life
// ends, when it returns nil. It returns the pause before the next.
func (r *remote) another(pause time.Duration) (*process, time.Duration) {
	for begun := time.Now(); ; {
		select {
		case <-r.life.Done():
			return nil, 0
		case <-time.After(pause):
		}
		pause = min(max(2*pause, firstPause), lastPause)
		p, err := r.start(r.life)
		if r.life.Err() != nil {
			if p != nil {
				p.stop(errClosed)
				p.done.Wait()
			}
			return nil, 0
		}
		r.set(p, err)
		if err == nil {
			r.log.Info("hsm: a new worker process has the module", "token", r.cfg.logName(), "pid", p.pid, "after", time.Since(begun).Round(time.Millisecond).String())
			return p, pause
		}
		r.count(attempted(err))
		r.log.Error("hsm: the worker process of the module cannot be used", "token", r.cfg.logName(), "error", err)
	}
}

// count adds s to what was counted in workers that have ended.
func (r *remote) count(s Stats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.before = r.before.plus(s)
}

func (r *remote) info() TokenInfo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last.status.Load().Info
}

// stats returns what the worker told last, which is some tenths of a second old at the
// most, or, if it answers at once, now.
func (r *remote) stats() Stats {
	r.mu.Lock()
	p := r.process
	r.mu.Unlock()
	if p != nil {
		p.refresh()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.last.status.Load().Stats
	if r.process == nil {
		now = now.ended()
	}
	s := r.before.plus(now)
	s.Errors += r.errors.Load()
	s.Retries += r.retries.Load()
	s.Restarts = r.restarts
	return s
}

// close ends the worker, after the calls that run have ended, but does not wait for
// those that hang.
func (r *remote) close() error {
	r.clean.close()
	r.end()
	<-r.ended
	r.mu.Lock()
	p := r.last
	r.mu.Unlock()
	err := p.close(2*r.cfg.Timeout + startTimeout)
	p.stop(errClosed)
	p.done.Wait()
	if errors.Is(err, errCrashed) {
		return nil // it is closed all the same
	}
	return err
}
