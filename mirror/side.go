package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
)

// A side is one of the two roots, and what is known of it. Only its watch opens it
// and says whether it is there; what calls find makes the watch look.
type side struct {
	index int
	kind  string
	opens func(context.Context) (kms.Root, error)
	final func(error) bool
	proof func(context.Context, kms.Root) error // that it is the root of the record key
	log   *slog.Logger
	times times

	root      atomic.Pointer[kms.Root] // nil until it has been opened
	condition atomic.Pointer[condition]
	kick      chan struct{} // has the watch look at once
	looked    chan struct{} // closed after the first look
	stats     sideCounters
}

// A condition is what the last look found. It is not changed.
type condition struct {
	err   error // why it is away, or nil
	since time.Time
	hold  bool // it is not to be opened again
	// stay ends when the root is found to be away. Nil: it is.
	stay context.Context
	end  context.CancelFunc
}

// ask has the root do something, also if it is away. When that is found meanwhile,
// nobody waits for it any more.
func ask[T any](ctx context.Context, s *side, do func(context.Context, *side, kms.Root) (T, error)) (none T, _ error) {
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	stay := s.condition.Load().stay
	if stay != nil {
		defer context.AfterFunc(stay, cancel)()
	}
	v, err := guarded(func() (T, error) { return do(asking, s, *s.root.Load()) })
	if err != nil && stay != nil && stay.Err() != nil && ctx.Err() == nil {
		if away := s.away(); away != nil {
			return none, away
		}
	}
	if err != nil {
		return v, fmt.Errorf("%v: %w", s, err)
	}
	return v, nil
}

func (s *side) String() string { return fmt.Sprintf("the %s root (%s)", names[s.index], s.kind) }

// away returns why the root is not used now, as an error of package kms, or nil.
// What somebody has refused is kms.ErrDenied, all else kms.ErrUnavailable: it may
// come back as it was.
func (s *side) away() error {
	c := s.condition.Load()
	if c.err == nil {
		return nil
	}
	means := kms.ErrUnavailable
	if errors.Is(c.err, kms.ErrDenied) {
		means = kms.ErrDenied
	}
	return fmt.Errorf("%v is away: %w: %v", s, means, c.err)
}

// suspect has the watch look at the root, soon.
func (s *side) suspect() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// watch looks at the root until ctx ends.
func (s *side) watch(ctx context.Context) {
	for first := true; ; first = false {
		s.learn(ctx, s.look(ctx))
		if first {
			close(s.looked)
		}
		if !pause(ctx, s.times.gap, nil) || !pause(ctx, s.rest(), s.kick) {
			return
		}
	}
}

// rest is how long the watch waits, unless something makes it look.
func (s *side) rest() time.Duration {
	switch {
	case s.root.Load() == nil:
		return s.times.reopen
	case s.condition.Load().err != nil:
		return s.times.away
	}
	return s.times.here
}

// pause waits for d, or for wake, and reports false if ctx has ended.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-t.C:
	}
	return true
}

// look returns why the root cannot be used, or nil. It opens it, if that has to be
// done.
func (s *side) look(ctx context.Context) error {
	if s.root.Load() == nil {
		if c := s.condition.Load(); c.hold {
			return c.err
		}
		root, err := guarded(func() (kms.Root, error) { return s.opens(ctx) })
		if err != nil {
			return err
		}
		s.root.Store(&root)
	}
	ctx, cancel := context.WithTimeout(ctx, s.times.look)
	defer cancel()
	_, err := guarded(func() (struct{}, error) { return struct{}{}, s.use(ctx, *s.root.Load()) })
	return err
}

// use uses the root, and its record key.
func (s *side) use(ctx context.Context, root kms.Root) error {
	if err := root.Status(ctx); err != nil {
		return err
	}
	if s.proof == nil {
		return nil
	}
	return s.proof(ctx, root)
}

// learn takes what a look found. A change is logged, once.
func (s *side) learn(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // the end of the watch is no fault of the root's
	}
	old, now := s.condition.Load(), time.Now()
	next := &condition{err: err, since: now, hold: err != nil && s.root.Load() == nil && s.final != nil && s.final(err)}
	changed := (old.err == nil) != (err == nil)
	if !changed && !old.since.IsZero() {
		next.since = old.since
	}
	if err == nil {
		next.stay, next.end = old.stay, old.end
		if changed {
			next.stay, next.end = context.WithCancel(context.Background())
		}
	}
	s.condition.Store(next)
	if err != nil && old.end != nil {
		old.end()
	}
	switch {
	case err != nil && (changed || old.since.IsZero()):
		s.stats.lost.Add(1)
		s.log.Error("mirror: a root of trust is away; what was encrypted opens with the other one only",
			"root", names[s.index], "kind", s.kind, "error", err, "tried_again", !next.hold)
	case err == nil && changed && !old.since.IsZero():
		s.log.Info("mirror: a root of trust is back", "root", names[s.index], "kind", s.kind, "after", now.Sub(old.since).Round(time.Millisecond).String())
	}
}

// guarded runs do, whose panic is an error: on a goroutine of this package's it
// would end the process, and all requests with it.
func guarded[T any](do func() (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: panic: %v", kms.ErrUnavailable, p)
		}
	}()
	return do()
}
