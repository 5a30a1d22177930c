package hsm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/within"
)

// maxTries is how often an op is tried.
const maxTries = 3

// run does o. After a fault that another session may cure it tries once more, and
// once more after that if the connection has been lost meanwhile.
func (t *token) run(ctx context.Context, o *op) ([]byte, error) {
	o = t.cfg.numbered(o)
	w := new(within.Context)
	w.Begin(ctx, time.Now().Add(t.cfg.Timeout))
	defer w.Stop()
	result, err := t.try(w, o, false)
	for tries := 1; tries < maxTries && !o.once && err != nil && repairable(err) && w.Err() == nil; tries++ {
		if tries == maxTries-1 && t.link.Load().usable() {
			break
		}
		t.count.retries.Add(1)
		result, err = t.try(w, o, true)
	}
	if err != nil {
		t.count.errors.Add(1)
	}
	if err != nil && o.begun.count() > 0 {
		err = fmt.Errorf("%w; %w", err, errBegun)
	}
	t.clean.after(o, result)
	return result, err
}

func (t *token) try(ctx context.Context, o *op, again bool) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, waited(ctx, "begin")
	}
	k, err := t.inUse(ctx, o)
	if err != nil {
		return nil, err
	}
	letGo, discard := func() {}, wipe
	if o.resident() {
		discard = func(late []byte) { t.clean.after(o, nil); wipe(late) }
		if letGo, err = t.changeObjects(ctx, t.pool); err != nil {
			k.done()
			return nil, err
		}
	}
	if o.once && !o.slow() {
		w := new(within.Context)
		w.Begin(ctx, time.Now().Add(patience*t.cfg.Queue.Wait))
		defer w.Stop()
		ctx = w
	}
	a, b, own := copies(o.a, o.b)
	// What runs late reads none of o's slices: they are the caller's, who may leave
	// before the call ends.
	result, err := call(ctx, t.pool, task[[]byte]{
		run: func(w *worker) ([]byte, error) {
			return onSession(ctx, w, k.link, func(s session) ([]byte, error) { return s.perform(o, k, a, b) })
		},
		discard: discard,
		slow:    o.slow(),
		end:     func() { clear(own); k.done(); letGo() },
	})
	if err != nil {
		t.react(ctx, k, err, again)
	}
	return result, err
}

// patience is how long an op that another token may do waits for a call of this one,
// once its key is loaded, in multiples of the queue's longest wait.
const patience = 2

func wipe(late []byte) { clear(late) }

// copies returns copies of a and b, and the one piece of memory that holds both.
// That of nil is nil.
func copies(a, b []byte) (a2, b2, all []byte) {
	all = make([]byte, len(a)+len(b))
	if a != nil {
		a2 = all[:len(a):len(a)]
		copy(a2, a)
	}
	if b != nil {
		b2 = all[len(a):]
		copy(b2, b)
	}
	return a2, b2, all
}

// inUse returns the key that o uses, in use: that of its handle, or else the record
// key. It connects and loads what it has to.
func (t *token) inUse(ctx context.Context, o *op) (k *loaded, err error) {
	if !o.loads() {
		return t.recordKey(ctx, o)
	}
	if l := t.link.Load(); l.usable() {
		k = l.cached(o.handle)
	}
	if k == nil {
		if k, err = t.connectedKey(ctx, o); err != nil {
			return nil, err
		}
	}
	if k.handle.purpose != o.purpose {
		k.done()
		return nil, fmt.Errorf("hsm: use a key of purpose %d for purpose %d: %w", k.handle.purpose, o.purpose, kms.ErrUnsupported)
	}
	return k, nil
}

func (t *token) connectedKey(ctx context.Context, o *op) (*loaded, error) {
	h, err := parseHandle(o.handle)
	if err != nil {
		return nil, err
	}
	l, err := t.linkFor(ctx, o)
	if err != nil {
		return nil, err
	}
	return t.load(ctx, l, o.handle, h)
}

func (t *token) recordKey(ctx context.Context, o *op) (*loaded, error) {
	l, err := t.linkFor(ctx, o)
	if err != nil {
		return nil, err
	}
	if !l.recordKey.use() {
		return nil, errStale
	}
	return l.recordKey, nil
}

// onSession runs fn with the worker's session, which is closed after any error
// that does not show that it is usable.
func onSession[T any](ctx context.Context, w *worker, l *link, fn func(session) (T, error)) (result T, err error) {
	if w.session.link != l {
		w.session.close()
	}
	if err := l.enter(ctx); err != nil {
		return result, err
	}
	defer l.leave()
	if w.session.link != nil && time.Now().After(w.expires) {
		w.session.abandon()
	}
	if w.session.link == nil {
		if w.session, err = l.open(0); err != nil {
			return result, err
		}
		w.expires = time.Now().Add(jittered(l.life))
	}
	result, err = fn(w.session)
	if _, faulty := classOf(err); faulty {
		w.session.abandon()
	}
	return result, err
}

// jittered returns a time that is up to a fifth less or more than d.
func jittered(d time.Duration) time.Duration {
	return d - d/5 + rand.N(2*d/5+1)
}

// react takes out of use what an error says is broken. If it came again on
// another session that may be the link, or just what this caller asked, who
// must not be able to make all others wait for another link: a use that must
// succeed tells.
func (t *token) react(ctx context.Context, k *loaded, err error, again bool) {
	l := k.link
	c, ok := classOf(err)
	switch {
	case !ok || c == requestFault || c == pinFault:
	case c == loginFault || c == moduleFault || k == l.recordKey && c == objectFault:
		l.broken.Store(true)
	case again:
		if err := t.alive(ctx, l); err != nil {
			l.broken.Store(true)
		}
	case c == objectFault:
		l.forget(k)
	}
}

// alive uses the keys of the link.
func (t *token) alive(ctx context.Context, l *link) error {
	if !l.recordKey.use() {
		return errStale
	}
	_, err := call(ctx, t.pool, task[struct{}]{
		run: func(w *worker) (struct{}, error) {
			return onSession(ctx, w, l, func(s session) (struct{}, error) { return struct{}{}, s.useLinkKeys() })
		},
		end: l.recordKey.done,
	})
	return err
}

// useLinkKeys uses the record key and, with an encryption and its inverse, the
// key that was made for the link.
func (s session) useLinkKeys() error {
	if err := s.useRecordKey(); err != nil {
		return err
	}
	return s.roundTrip(s.link.probe.object)
}

// repairable reports whether a second try may succeed.
func repairable(err error) bool {
	if c, ok := classOf(err); ok {
		return c != requestFault && c != pinFault
	}
	return errors.Is(err, errStale) || errors.Is(err, errHung)
}
