package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// overloadConns is how many requests of an open loop can wait for an answer.
const overloadConns = 1000

// normalTime is how long a gateway may take to get over an overload.
const normalTime = 2 * time.Second

// overload offers more than the HSM can do (LD-02).
func (b *bench) overload(ctx context.Context) error {
	g, err := b.slowGateway(ctx, "overload", config{})
	if err != nil {
		return err
	}
	defer g.stop()
	t := b.report.table("Overload (LD-02), direct mode, slow HSM", "offered", "sent", "p99 sent late", "answered 200", "of the peak", "p99 of 200", "refused", "p99 of refusals", "without Retry-After", "other", "normal after")
	t.row("0.1x", perSecond(g.peak/10), millis(g.calm.late), perSecond(g.calm.rate), "", millis(g.calm.p99), "", "", "", "", "")
	for _, times := range []float64{2, 5, 20} {
		if err := b.overloaded(ctx, t, g, times); err != nil {
			return err
		}
	}
	t.note("The peak is %s: %d sessions of an HSM that takes %v longer for each call. Requests are sent when they are due, over %d connections; "+
		"where they are sent late, the load generator has no free connection or no CPU time, and the other times have its delay in them, too. Normal is a p99 of 200 ms of at most twice that at a tenth of the peak, without a refusal.",
		perSecond(g.peak), slowSessions, slowBy, overloadConns)
	return nil
}

func (b *bench) overloaded(ctx context.Context, t *table, g *slowGateway, times float64) error {
	l := load{target: g.target(g.state.app), protocol: http1, conns: overloadConns, streams: 1, next: always(generate(floorKey)), rate: times * g.peak}
	s, err := l.start(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	sleep(ctx, b.warm)
	from := time.Since(s.begin)
	sleep(ctx, b.d)
	to := time.Since(s.begin)
	recovered := make(chan recovery, 1)
	go func() { recovered <- b.recover(ctx, g) }()
	s.stop()
	r := <-recovered
	if err := ctx.Err(); err != nil {
		return err
	}
	f := s.figures(from, to)
	sent := float64(s.countSent(from, to)) / (to - from).Seconds()
	name := fmt.Sprintf("%.0fx", times)
	t.row(name, perSecond(sent), millis(f.late), perSecond(f.rate), fmt.Sprintf("%.2f", f.rate/g.peak), millis(f.p99), perSecond(f.refused), millis(f.refusedP99), fmt.Sprint(f.noRetry), fmt.Sprint(f.others), r.String())
	figure := "LD-02 at " + name + ": "
	b.report.verdict(f.rate >= 0.9*g.peak && f.others == 0, figure+"answered 200", ">= 90 % of the peak", "%.0f %%, %d failed", 100*f.rate/g.peak, f.others)
	if f.refused > 0 {
		b.report.verdict(f.refusedP99 <= 10*time.Millisecond && f.noRetry == 0, figure+"p99 of refusals, all with Retry-After", "<= 10 ms", "%s, %d without", millis(f.refusedP99), f.noRetry)
	}
	b.report.verdict(r.err == nil && r.after <= normalTime, figure+"normal again", "<= 2 s after", "%s", r)
	return nil
}

// countSent counts the requests that were sent from begin to end.
func (s *shot) countSent(begin, end time.Duration) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.samples {
		if sent := x.due + x.late; sent >= begin && sent < end {
			n++
		}
	}
	return n
}

// A recovery is how long it took until all was as before.
type recovery struct {
	after time.Duration
	err   error
}

func (r recovery) String() string {
	if r.err != nil {
		return r.err.Error()
	}
	return r.after.String()
}

// window is what recover looks at at a time.
const window = 200 * time.Millisecond

// recover watches a light load that begins when the overload ends.
func (b *bench) recover(ctx context.Context, g *slowGateway) recovery {
	const most = 3 * normalTime
	begin := time.Now()
	l := b.load(g.target(g.state.app), http1, always(generate(floorKey)))
	l.rate = g.peak / 10
	s, err := l.start(ctx)
	if err != nil {
		return recovery{err: err}
	}
	delay := s.begin.Sub(begin) // the handshakes are part of it
	sleep(ctx, most)
	s.stop()
	limit := max(2*g.calm.p99, slowBy*2)
	for from := time.Duration(0); from+2*window <= most; from += window {
		f, next := s.figures(from, from+window), s.figures(from+window, from+2*window)
		if slices.ContainsFunc([]figures{f, next}, func(f figures) bool {
			return f.rate == 0 || f.refused > 0 || f.others > 0 || f.p99 > limit
		}) {
			continue
		}
		return recovery{after: (delay + from).Round(time.Millisecond)}
	}
	return recovery{err: fmt.Errorf("not within %v", most)}
}
