package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/keygate/keygate/kms"
)

// An operation is a call of the root that uses one key, in terms of one session
// of the token.
type operation[T any] struct {
	handle  []byte
	purpose kms.Purpose // of the handle; zero: there is none, and the key is the record key
	a, b    []byte      // the caller's arguments, of which run gets copies that are wiped after it
	run     func(s session, k *loaded, a, b []byte) (T, error)
	discard func(T) // if not nil, gets a result that came after the caller had left
}

// run runs o, and after a fault that another session, another login or another
// initialisation of the module may cure, once more. Every operation may be
// repeated: a key that is made twice is lost once.
func run[T any](ctx context.Context, r *Root, o operation[T]) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	var h keyHandle
	if o.purpose != 0 {
		var err error
		if h, err = parseHandle(o.handle); err != nil {
			var none T
			return none, err
		}
	}
	result, err := try(ctx, r, o, h, false)
	if err != nil && repairable(err) && ctx.Err() == nil {
		r.stats.retries.Add(1)
		result, err = try(ctx, r, o, h, true)
	}
	if err != nil {
		r.stats.errors.Add(1)
	}
	return result, err
}

func try[T any](ctx context.Context, r *Root, o operation[T], h keyHandle, again bool) (T, error) {
	var none T
	l, err := r.connected(ctx)
	if err != nil {
		return none, err
	}
	k := l.recordKey
	if o.purpose != 0 {
		if k, err = r.load(ctx, l, o.handle, h); err != nil {
			return none, err
		}
	} else if !k.use() {
		return none, errStale
	}
	if h.purpose != o.purpose {
		k.done()
		return none, fmt.Errorf("hsm: use a key of purpose %d for purpose %d: %w", h.purpose, o.purpose, kms.ErrUnsupported)
	}
	a, b := bytes.Clone(o.a), bytes.Clone(o.b)
	result, err := call(ctx, r.pool, task[T]{
		run: func(w *worker) (T, error) {
			return onSession(ctx, w, l, func(s session) (T, error) { return o.run(s, k, a, b) })
		},
		discard: o.discard,
		end:     func() { clear(a); clear(b); k.done() },
	})
	l.react(k, err, again)
	return result, err
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
// another session, that is the link.
func (l *link) react(k *loaded, err error, again bool) {
	c, ok := classOf(err)
	switch {
	case !ok || c == requestFault || c == pinFault:
	case again || c == loginFault || c == moduleFault || k == l.recordKey && c == objectFault:
		l.broken.Store(true)
	case c == objectFault:
		l.drop(k)
	}
}

// repairable reports whether a second try may succeed.
func repairable(err error) bool {
	if c, ok := classOf(err); ok {
		return c != requestFault && c != pinFault
	}
	return errors.Is(err, errStale) || errors.Is(err, errHung)
}
