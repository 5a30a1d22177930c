package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/keygate/keygate/kms"
)

// either returns the answer of one of sides: that of the first that is there or, if
// it fails, or has not answered after times.patience, that of the other. An error
// says what both have answered. do must not use what belongs to the caller of this
// package: a root that is late may still run it when either has returned. What it
// returns then goes to discard, unless that is nil.
func either[T any](ctx context.Context, r *Root, what string, sides []*side, discard func(T), do func(context.Context, *side, kms.Root) (T, error)) (none T, _ error) {
	if ctx.Err() != nil {
		return none, ended(what, ctx)
	}
	there, errs := present(sides)
	q := &question[T]{r: r, do: do, discard: discard, answers: make(chan answer[T])}
	if len(errs) == len(sides) {
		q.bound = r.times.look
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	patience := time.NewTimer(r.times.patience)
	defer patience.Stop()
	asked, waiting := 0, 0
	next := func() {
		if asked < len(there) {
			q.ask(ctx, there[asked])
			asked, waiting = asked+1, waiting+1
		}
	}
	for next(); waiting > 0; {
		select {
		case <-ctx.Done():
			return none, ended(what, ctx)
		case <-patience.C:
			there[0].suspect()
			next()
		case a := <-q.answers:
			waiting--
			if a.err == nil {
				r.answered(ctx, a.side, what, errs)
				return a.value, nil
			}
			r.failed(ctx, a.side, a.err)
			errs = append(errs, a.err)
			next()
		}
	}
	if ctx.Err() != nil {
		return none, ended(what, ctx)
	}
	return none, combined(what, errs)
}

// present returns those of sides that are there, and why the others are not. If none
// // is, they are asked all the same, if they are open: what was found may not be so any
// more, and a root that is alone is always asked.
func present(sides []*side) (there []*side, errs []error) {
	var open []*side
	for _, s := range sides {
		err := s.away()
		if err == nil {
			there = append(there, s)
			continue
		}
		errs = append(errs, err)
		if s.root.Load() != nil {
			open = append(open, s)
		}
	}
	if len(there) == 0 {
		return open, errs
	}
	return there, errs
}

// A question is what one or two sides are asked for one answer.
type question[T any] struct {
	r       *Root
	do      func(context.Context, *side, kms.Root) (T, error)
	discard func(T)
	answers chan answer[T]
	bound   time.Duration // of each side's answer; 0: none but the context's
}

type answer[T any] struct {
	side  *side
	value T
	err   error
}

// ask has s answer, until ctx ends.
func (q *question[T]) ask(ctx context.Context, s *side) {
	q.r.running.Go(func() {
		value, err := q.askBounded(ctx, s)
		select {
		case q.answers <- answer[T]{s, value, err}:
		case <-ctx.Done():
			if q.discard != nil {
				q.discard(value)
			}
		}
	})
}

func (q *question[T]) askBounded(ctx context.Context, s *side) (T, error) {
	if q.bound > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, q.bound)
		defer cancel()
	}
	return ask(ctx, s, q.do)
}

// both has both sides answer, at the same time, and waits for both. A side that is
// away is not asked.
func both[T any](ctx context.Context, r *Root, do func(context.Context, *side, kms.Root) (T, error)) (values [2]T, errs [2]error) {
	var wait sync.WaitGroup
	for i, s := range r.sides {
		if errs[i] = s.away(); errs[i] != nil {
			continue
		}
		wait.Go(func() {
			if values[i], errs[i] = ask(ctx, s, do); errs[i] != nil {
				r.failed(ctx, s, errs[i])
			}
		})
	}
	wait.Wait()
	return values, errs
}

// failed has a root looked at that could not answer.
func (r *Root) failed(ctx context.Context, s *side, err error) {
	if ctx.Err() != nil {
		return // its caller gave up
	}
	if means := meaning(err); means == kms.ErrUnavailable || means == kms.ErrDenied {
		s.stats.failures.Add(1)
		s.suspect()
	}
}

// answered notes an answer of s after the other root had failed with errs. Errors
// but of being out of reach are a disagreement: the other root has lost the key, or
// computes wrong.
func (r *Root) answered(ctx context.Context, s *side, what string, errs []error) {
	if len(errs) == 0 {
		return
	}
	s.stats.alone.Add(1)
	for _, err := range errs {
		if means := meaning(err); means != kms.ErrUnavailable && means != kms.ErrDenied {
			r.disagree(ctx, what, s, err)
		}
	}
}

// disagree counts and logs, at most once a minute, that one root does what the other
// says cannot be done.
func (r *Root) disagree(ctx context.Context, what string, s *side, err error) {
	r.stats.disagreements.Add(1)
	if r.odd.now() {
		r.log.ErrorContext(ctx, "mirror: the roots of trust disagree: one has lost a key, or its part of a ciphertext, or fails; more of these are only counted for a minute",
			"operation", what, "done_by", names[s.index], "error", err)
	}
}

// meanings are the errors of package kms that a root can return. Of two, that of
// both together is the one that comes first: a root that says that a ciphertext is
// bad has looked whether it is well itself, and what one cannot say the other may
// know.
var meanings = []error{kms.ErrCiphertext, kms.ErrUnsupported, kms.ErrKeySize, kms.ErrUnavailable, kms.ErrDenied, kms.ErrCorrupt}

// meaning returns which of meanings err is.
func meaning(err error) error {
	for _, m := range meanings {
		if errors.Is(err, m) {
			return m
		}
	}
	return kms.ErrUnavailable
}

// combined returns one error of errs, which must not be empty: one error of package
// kms, and what all say.
func combined(what string, errs []error) error {
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	for _, m := range meanings {
		for _, err := range errs {
			if meaning(err) == m {
				return fmt.Errorf("mirror: %s: %w: %s", what, m, strings.Join(texts, "; "))
			}
		}
	}
	panic("mirror: no error") // meaning returns one of meanings
}

// joined is combined for what both roots were asked for; nil if errs are.
func (r *Root) joined(ctx context.Context, what string, errs [2]error) error {
	var all []error
	for _, err := range errs {
		if err != nil {
			all = append(all, err)
		}
	}
	switch {
	case len(all) == 0:
		return nil
	case ctx.Err() != nil:
		return ended(what, ctx)
	}
	return combined(what, all)
}

func ended(what string, ctx context.Context) error {
	return fmt.Errorf("mirror: %s: %w: %w", what, kms.ErrUnavailable, ctx.Err())
}

// sometimes is true once a minute.
type sometimes struct {
	mu   sync.Mutex
	last time.Time
}

func (s *sometimes) now() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.IsZero() && time.Since(s.last) < time.Minute {
		return false
	}
	s.last = time.Now()
	return true
}
