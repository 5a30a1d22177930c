package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// A Bench says how to measure a token.
type Bench struct {
	// Sessions are how many sessions to measure with, one number after the other.
	// Default 1, 2, 4, 8, ... to twice those of the configuration. What the token has
	// no room for is left out.
	Sessions []int
	// Time is how long each operation is measured with each number. Default 500ms.
	Time time.Duration
}

// DefaultBenchTime is the default of Bench.Time.
const DefaultBenchTime = 500 * time.Millisecond

// A BenchReport is what Measure found.
type BenchReport struct {
	Module string       `json:"module"` // its path
	Token  TokenInfo    `json:"token"`
	Points []BenchPoint `json:"points"`
	// Suggested is the smallest number of sessions with which the operations reached, in
	// the mean, nine tenths of their best rates. Zero: nothing was measured.
	Suggested int `json:"suggested_sessions"`
}

// A BenchPoint is one operation with one number of sessions, each of which is always
// in use.
type BenchPoint struct {
	Operation string  `json:"operation"`
	Sessions  int     `json:"sessions"`
	PerSecond float64 `json:"per_second"`
	Latency           // Call is empty
	Error     string  `json:"error,omitempty"` // the first; then the figures are those until then
}

// Measure logs in to the token that cfg, which is about one, names, as Open does, and
// measures wrap, unwrap, encrypt, decrypt, sign (HMAC) and random, with 32 bytes each,
// on the way that the operations of a Root take. It leaves nothing in the token.
func Measure(ctx context.Context, cfg Config, b Bench) (report BenchReport, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return report, err
	}
	if cfg, err = cfg.only(); err != nil {
		return report, err
	}
	if b.Time == 0 {
		b.Time = DefaultBenchTime
	}
	if len(b.Sessions) == 0 {
		b.Sessions = powersOfTwo(2 * cfg.Sessions)
	}
	if slices.Min(b.Sessions) < 1 || b.Time < 0 {
		return report, errors.New("hsm: bench: sessions and times are more than 0")
	}
	cfg.Sessions = slices.Max(b.Sessions)
	pin := &pinSource{from: cfg.PIN}
	defer pin.forget()
	t, err := openToken(ctx, cfg, pin, new(acquaintance), slog.New(slog.DiscardHandler))
	if err != nil {
		return report, err
	}
	report = BenchReport{Module: cfg.Module, Token: t.info(), Points: []BenchPoint{}}
	err = t.bench(ctx, b, &report)
	report.Suggested = suggestedSessions(report.Points)
	return report, errors.Join(err, t.close())
}

func powersOfTwo(most int) (all []int) {
	for n := 1; n <= most; n *= 2 {
		all = append(all, n)
	}
	return all
}

// bench measures each operation with each number of sessions.
func (t *token) bench(ctx context.Context, b Bench, report *BenchReport) error {
	room, _ := t.info().sessions(t.cfg.Sessions)
	return t.onBenchSession(ctx, func(s session) error {
		operations, err := t.benched(ctx, s)
		if err != nil {
			return err
		}
		for _, o := range operations {
			for _, n := range b.Sessions {
				if n > room {
					continue
				}
				report.Points = append(report.Points, t.point(ctx, o, n, b.Time))
				if err := ctx.Err(); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// onBenchSession runs fn with a session that owns what fn makes, and ends with it.
func (t *token) onBenchSession(ctx context.Context, fn func(session) error) error {
	l, err := t.connected(ctx)
	if err != nil {
		return err
	}
	if err := l.enter(ctx); err != nil {
		return err
	}
	s, err := l.open(0)
	l.leave()
	if err != nil {
		return err
	}
	defer s.close()
	return fn(s)
}

// A benched operation is one that is measured.
type benched struct {
	name string
	run  func(context.Context) error
}

// benched prepares the operations, with keys that end with s.
func (t *token) benched(ctx context.Context, s session) ([]benched, error) {
	plaintext, additionalData := make([]byte, kms.KeySize), make([]byte, 72) // a DEK, and what kms binds to it
	handle, err := t.do(ctx, &op{kind: opNewKey, purpose: kms.Encryption})
	if err != nil {
		return nil, err
	}
	ciphertext, err := t.do(ctx, &op{kind: opEncrypt, handle: handle, purpose: kms.Encryption, a: plaintext, b: additionalData})
	if err != nil {
		return nil, err
	}
	stored, err := parseHandle(handle)
	if err != nil {
		return nil, err
	}
	var fresh pkcs11.ObjectHandle
	if err := t.inside(ctx, s.link, func() (err error) { fresh, err = s.create(kms.Encryption, nil); return err }); err != nil {
		return nil, err
	}
	asked := func(o op) func(context.Context) error {
		return func(ctx context.Context) error { _, err := t.do(ctx, &o); return err }
	}
	onWorker := func(fn func(session) error) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := call(ctx, t.pool, task[struct{}]{run: func(w *worker) (struct{}, error) {
				return onSession(ctx, w, s.link, func(s session) (struct{}, error) { return struct{}{}, fn(s) })
			}})
			return err
		}
	}
	return []benched{
		{"wrap", onWorker(func(s session) error { _, err := s.wrapKey(stored, fresh); return err })},
		{"unwrap", onWorker(func(s session) error {
			object, err := s.unwrap(stored)
			if err != nil {
				return err
			}
			return s.destroy(object)
		})},
		{"encrypt", asked(op{kind: opEncrypt, handle: handle, purpose: kms.Encryption, a: plaintext, b: additionalData})},
		{"decrypt", asked(op{kind: opDecrypt, handle: handle, purpose: kms.Encryption, a: ciphertext, b: additionalData})},
		{"sign", asked(op{kind: opMAC, a: plaintext})},
		{"random", asked(op{kind: opRandom, size: kms.KeySize})},
	}, nil
}

// inside runs fn in the module.
func (t *token) inside(ctx context.Context, l *link, fn func() error) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	defer l.leave()
	return fn()
}

// point measures o on n sessions, which are opened before the time begins.
func (t *token) point(ctx context.Context, o benched, n int, d time.Duration) (p BenchPoint) {
	before := t.pool
	t.pool = newPool(n, 0, t.cfg.Timeout, Queue{})
	defer func() {
		if err := t.pool.close(); err != nil {
			p.Error = err.Error()
		}
		t.pool = before
	}()
	p = BenchPoint{Operation: o.name, Sessions: n}
	if _, err := o.forTime(ctx, n, 0); err != nil {
		p.Error = err.Error()
		return p
	}
	begun := time.Now()
	took, err := o.forTime(ctx, n, d)
	elapsed := time.Since(begun)
	if err != nil {
		p.Error = err.Error()
	}
	if len(took) > 0 {
		p.PerSecond = float64(len(took)) / elapsed.Seconds()
		p.Latency = latencyOf("", took)
	}
	return p
}

// forTime has n callers do o, one time after the other, until d is over, and at least
// once. It returns how long each took, and the first error, at which all end.
func (o benched) forTime(ctx context.Context, n int, d time.Duration) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var callers sync.WaitGroup
	each := make([][]time.Duration, n)
	end := time.Now().Add(d)
	for i := range n {
		callers.Go(func() {
			for begun := time.Now(); ctx.Err() == nil; {
				if err := o.run(ctx); err != nil {
					cancel(fmt.Errorf("%s: %w", o.name, err))
					return
				}
				now := time.Now()
				each[i] = append(each[i], now.Sub(begun))
				if begun = now; !now.Before(end) {
					return
				}
			}
		})
	}
	callers.Wait()
	return slices.Concat(each...), context.Cause(ctx)
}

// suggestedSessions returns the smallest number with which the operations reach nine
// tenths of what they reach with any, in the mean of their rates, each in terms of its
// best: so one operation that was disturbed does not decide.
func suggestedSessions(points []BenchPoint) int {
	best, mean := make(map[string]float64), make(map[int]float64)
	for _, p := range points {
		if p.Error == "" {
			best[p.Operation] = max(best[p.Operation], p.PerSecond)
		}
	}
	most := 0.0
	for _, p := range points {
		if p.Error == "" && p.PerSecond > 0 {
			mean[p.Sessions] += p.PerSecond / best[p.Operation] / float64(len(best))
			most = max(most, mean[p.Sessions])
		}
	}
	for _, n := range slices.Sorted(maps.Keys(mean)) {
		if mean[n] >= 0.9*most {
			return n
		}
	}
	return 0
}
