package hsm

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

// A backend does ops in one token, in this process or by way of another.
type backend interface {
	// do returns what the kind of o says. It returns at the end of ctx, or of the
	// configured time for a call.
	do(ctx context.Context, o *op) ([]byte, error)
	// info describes the token as it was when it was connected to last.
	info() TokenInfo
	stats() Stats
	// close waits for the calls that run, but not for those that hang.
	close() error
}

// A token is the backend that has the module in this process.
type token struct {
	cfg    Config
	log    *slog.Logger
	module *module
	pin    *pinSource
	same   *acquaintance
	pool   *pool // for calls with a session of their own
	keeper *pool // for calls with a loader
	link   atomic.Pointer[link]
	repair repair

	clean cleaner
	count counters

	finalTry bool // log in even where one wrong PIN more locks the token
}

// keeperSpares is how many calls with a loader may hang before fewer are made.
const keeperSpares = 3

// openToken connects to the token that cfg, which has its defaults, names.
func openToken(ctx context.Context, cfg Config, pin *pinSource, same *acquaintance, log *slog.Logger) (*token, error) {
	m, err := useModule(ctx, cfg.Module, cfg.InitArgs, cfg.signs())
	if err != nil {
		return nil, err
	}
	t := &token{cfg: cfg, log: log, module: m, pin: pin, same: same}
	t.clean = cleaner{log: log, wait: cfg.Timeout, destroy: t.destroy}
	m.joined(t)
	l, err := t.connected(ctx)
	if err != nil {
		t.pool, t.keeper = newPool(0, 0, cfg.Timeout, Queue{}), newPool(0, 0, cfg.Timeout, Queue{})
		return nil, &openError{errors.Join(err, t.abandon()), t.stats().ended()}
	}
	sessions, spares := l.token.sessions(cfg.Sessions)
	if sessions < cfg.Sessions {
		log.Warn("hsm: the token has fewer sessions than are configured", "token", cfg.logName(), "configured", cfg.Sessions, "used", sessions)
	}
	t.pool = newPool(sessions, spares, cfg.Timeout, cfg.Queue)
	t.keeper = newPool(max(1, len(l.loaders)-keeperSpares), keeperSpares, cfg.Timeout, Queue{})
	return t, nil
}

// An openError says why there is no backend, and has what was counted in the attempt:
// a PIN that was refused must not be forgotten with it.
type openError struct {
	error
	stats Stats
}

func (e *openError) Unwrap() error { return e.error }

func (t *token) do(ctx context.Context, o *op) ([]byte, error) {
	if o.kind == opDestroy {
		return nil, t.destroy(ctx, o)
	}
	return t.run(ctx, o)
}

// destroy destroys the key that o names: that of its handle, or what another op has
// left.
func (t *token) destroy(ctx context.Context, o *op) error {
	if o.number != (kekID{}) {
		return t.destroyResident(ctx, nil, o.nth(0))
	}
	return t.destroyKey(ctx, o.handle)
}

// destroyKey takes the key of a handle out of the token if it is loaded there. The
// handle is the only other place that holds it.
func (t *token) destroyKey(ctx context.Context, handle []byte) error {
	h, err := parseHandle(handle)
	if err != nil {
		return err
	}
	if h.wrapping == inToken {
		return t.destroyResident(ctx, handle, h)
	}
	l := t.link.Load()
	if !l.usable() {
		return nil // nothing is loaded
	}
	k := l.cached(handle)
	if k == nil {
		return nil
	}
	l.evict(k)
	k.done()
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	_, err = call(ctx, t.keeper, task[struct{}]{run: func(*worker) (struct{}, error) {
		return struct{}{}, l.onLoader(ctx, func(s session) error { s.destroyDoomed(); return nil })
	}})
	return err
}

func (t *token) info() TokenInfo {
	if l := t.link.Load(); l != nil {
		return l.token
	}
	return TokenInfo{}
}

// abandon closes t, which was never connected. It does not wait for an attempt that
// hangs: t is closed when that ends.
func (t *token) abandon() error {
	t.repair.halt()
	closed := make(chan error, 1)
	go func() {
		t.repair.done.Wait()
		closed <- t.close()
	}()
	select {
	case err := <-closed:
		return err
	case <-time.After(t.cfg.Timeout):
	}
	t.module.abandoned.Add(1)
	go func() {
		<-closed
		t.module.abandoned.Add(-1)
	}()
	return errHung
}

// close closes the sessions and, if no other token uses it, finalizes the module.
// It leaves calls that hang, and the module with them, alone.
func (t *token) close() error {
	t.clean.close()
	t.module.left(t)
	t.repair.stop()
	err := errors.Join(t.pool.close(), t.keeper.close())
	patience := t.cfg.Timeout
	if err != nil {
		patience = 0
	}
	ended := make(chan error, 1)
	go func() {
		if l := t.link.Swap(nil); l != nil && err == nil {
			l.close()
		}
		ended <- t.module.release(patience)
	}()
	select {
	case releaseErr := <-ended:
		return errors.Join(err, releaseErr)
	case <-time.After(2 * t.cfg.Timeout):
		return errors.Join(err, errHung)
	}
}
