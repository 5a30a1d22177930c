package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/remote"
)

// try calls f until its error is final, or there is no more time. doubt says that
// an earlier try may have been done.
func (s *Store) try(ctx context.Context, call string, f func(ctx context.Context, doubt bool) error) error {
	doubt := false
	err := remote.Try(ctx, s.timeout, func(ctx context.Context) (bool, error) {
		err := f(ctx, doubt)
		failed, ok := errors.AsType[*failure](err)
		if !ok {
			return false, err
		}
		doubt = doubt || failed.doubt
		return failed.again && !s.closed.Load(), err
	})
	if err != nil {
		return fmt.Errorf("postgres: %s: %w", call, err)
	}
	return nil
}

// A failure is a statement without an answer.
type failure struct {
	verdict
	err error
}

func failed(call string, v verdict, err error) error {
	return &failure{v, fmt.Errorf("%w: %s: %w", v.class, call, err)}
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// run runs a statement on a connection of the pool. When ctx ends before it has its
// answer, run returns, and the statement goes on to its end, which is near: to break
// it off would cost the connection, and clients that give up would have the gateway
// connect anew all the time.
func run[T any](ctx context.Context, s *Store, call string, do func(context.Context, *pgxpool.Conn) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		v := judge(err)
		v.doubt = false // nothing was sent
		return none, failed(call, v, err)
	}
	answers := make(chan answer, 1)
	go func() {
		defer conn.Release()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.attempt())
		defer cancel()
		value, err := do(ctx, conn)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == readOnly {
			conn.Conn().Close(ctx) // the next one finds the server that takes writes
		}
		answers <- answer{value, err}
	}()
	select {
	case a := <-answers:
		if a.err != nil {
			return none, failed(call, judge(a.err), a.err)
		}
		return a.value, nil
	case <-ctx.Done():
		return none, failed(call, verdict{keystore.ErrUnavailable, true, true}, ctx.Err())
	}
}

// identify returns an error unless identity and format are those of this cluster's
// store.
func (s *Store) identify(identity string, format int) error {
	switch {
	case identity != s.identity:
		return unavailable("schema %s is the store of another cluster: %q", s.cfg.Schema, identity)
	case format != len(migrations):
		return unavailable("schema %s has format %d, and this gateway's is %d", s.cfg.Schema, format, len(migrations))
	}
	return nil
}

// check is what every call does first.
func (s *Store) check(call string, err error) error {
	if err == nil && s.closed.Load() {
		err = unavailable("store is closed")
	}
	if err != nil {
		return fmt.Errorf("postgres: %s: %w", call, err)
	}
	return nil
}
