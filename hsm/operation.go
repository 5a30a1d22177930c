package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/within"
)

// An operation is a call of the root that uses one key, in terms of one session
// of the token.
type operation[T any] struct {
	handle  []byte
	purpose kms.Purpose // of the handle; zero: there is none, and the key is the record key
	a, b    []byte      // the caller's arguments, of which run gets copies that are wiped after it
	run     func(s session, k *loaded, a, b []byte) (T, error)
	discard func(T) // if not nil, gets a result that came after the caller had left
	slow    bool    // see task
}

// run runs o. After a fault that another session may cure it tries once more,
// and once more after that if the connection has been lost meanwhile. Every
// operation may be repeated: a key that is made twice is lost once.
func run[T any](ctx context.Context, r *Root, o operation[T]) (T, error) {
	w := new(within.Context)
	w.Begin(ctx, time.Now().Add(r.cfg.Timeout))
	defer w.Stop()
	result, err := try(w, r, o, false)
	for tries := 1; tries < 3 && err != nil && repairable(err) && w.Err() == nil; tries++ {
		if tries == 2 && r.link.Load().usable() {
			break
		}
		r.stats.retries.Add(1)
		result, err = try(w, r, o, true)
	}
	if err != nil {
		r.stats.errors.Add(1)
	}
	return result, err
}

func try[T any](ctx context.Context, r *Root, o operation[T], again bool) (T, error) {
	var none T
	if ctx.Err() != nil {
		return none, waited(ctx, "begin")
	}
	k, err := r.inUse(ctx, o.handle, o.purpose)
	if err != nil {
		return none, err
	}
	a, b, own := copies(o.a, o.b)
	fn := o.run
	result, err := call(ctx, r.pool, task[T]{
		run: func(w *worker) (T, error) {
			return onSession(ctx, w, k.link, func(s session) (T, error) { return fn(s, k, a, b) })
		},
		discard: o.discard,
		slow:    o.slow,
		end:     func() { clear(own); k.done() },
	})
	if err != nil {
		r.react(ctx, k, err, again)
	}
	return result, err
}

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

// inUse returns the key of a handle, in use, or with a purpose of zero the
// record key. It connects and loads what it has to.
func (r *Root) inUse(ctx context.Context, handle []byte, purpose kms.Purpose) (k *loaded, err error) {
	if l := r.link.Load(); purpose != 0 && l.usable() {
		k = l.cached(handle)
	}
	if k == nil {
		if k, err = r.connectedKey(ctx, handle, purpose); err != nil {
			return nil, err
		}
	}
	if k.handle.purpose != purpose {
		k.done()
		return nil, fmt.Errorf("hsm: use a key of purpose %d for purpose %d: %w", k.handle.purpose, purpose, kms.ErrUnsupported)
	}
	return k, nil
}

func (r *Root) connectedKey(ctx context.Context, handle []byte, purpose kms.Purpose) (*loaded, error) {
	var h keyHandle
	if purpose != 0 {
		var err error
		if h, err = parseHandle(handle); err != nil {
			return nil, err
		}
	}
	l, err := r.connected(ctx)
	if err != nil {
		return nil, err
	}
	if purpose != 0 {
		return r.load(ctx, l, handle, h)
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
	if w.session.link == nil {
		if w.session, err = l.open(0); err != nil {
			return result, err
		}
	}
	result, err = fn(w.session)
	if _, faulty := classOf(err); faulty {
		w.session.abandon()
	}
	return result, err
}

// react takes out of use what an error says is broken. If it came again on
// another session that may be the link, or just what this caller asked, who
// must not be able to make all others wait for another link: a use that must
// succeed tells.
func (r *Root) react(ctx context.Context, k *loaded, err error, again bool) {
	l := k.link
	c, ok := classOf(err)
	switch {
	case !ok || c == requestFault || c == pinFault:
	case c == loginFault || c == moduleFault || k == l.recordKey && c == objectFault:
		l.broken.Store(true)
	case again:
		if err := r.alive(ctx, l); err != nil {
			l.broken.Store(true)
		}
	case c == objectFault:
		l.forget(k)
	}
}

// alive uses the keys of the link.
func (r *Root) alive(ctx context.Context, l *link) error {
	if !l.recordKey.use() {
		return errStale
	}
	_, err := call(ctx, r.pool, task[struct{}]{
		run: func(w *worker) (struct{}, error) { return onSession(ctx, w, l, session.useLinkKeys) },
		end: l.recordKey.done,
	})
	return err
}

// useLinkKeys uses the record key and, with an encryption and its inverse, the
// key that was made for the link.
func (s session) useLinkKeys() (struct{}, error) {
	if err := s.useRecordKey(); err != nil {
		return struct{}{}, err
	}
	return struct{}{}, s.roundTrip(s.link.probe.object)
}

// repairable reports whether a second try may succeed.
func repairable(err error) bool {
	if c, ok := classOf(err); ok {
		return c != requestFault && c != pinFault
	}
	return errors.Is(err, errStale) || errors.Is(err, errHung)
}
