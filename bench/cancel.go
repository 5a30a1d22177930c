package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// How LD-12's clients behave.
const (
	cancelAfter = time.Millisecond
	cancelTimes = 3 // the HSM's peak
	cancelConns = 4
)

// cancelled has clients cancel every request (LD-12). What they no longer want
// is not to cost the HSM anything, and not to stay behind.
func (b *bench) cancelled(ctx context.Context) error {
	g, err := b.slowGateway(ctx, "cancel", config{})
	if err != nil {
		return err
	}
	defer g.stop()
	sleep(ctx, settleTime)
	before, err := g.goroutines(ctx)
	if err != nil {
		return err
	}
	l := load{target: g.target(g.state.app), protocol: http2, conns: cancelConns, streams: 64, next: always(generate(floorKey)), rate: cancelTimes * g.peak, patience: cancelAfter}
	first, err := g.shim.Tally()
	if err != nil {
		return err
	}
	s, err := l.start(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	sleep(ctx, b.warm+b.d)
	s.stop()
	sleep(ctx, 10*slowBy) // what runs ends
	then, err := g.shim.Tally()
	if err != nil {
		return err
	}
	sleep(ctx, settleTime)
	last, err := g.shim.Tally()
	if err != nil {
		return err
	}
	after, err := g.goroutines(ctx)
	if err != nil {
		return err
	}
	l.patience, l.rate = 0, g.peak/10
	usual, err := measure(ctx, l, g.process, b.warm, b.d)
	if err != nil {
		return err
	}
	b.reportCancelled(s, g, then.Since(first)["C_Encrypt"], last.Since(then)["C_Encrypt"], before, after, usual)
	return ctx.Err()
}

func (b *bench) reportCancelled(s *shot, g *slowGateway, during, late uint64, before, after int, usual figures) {
	s.mu.Lock()
	answered, failed := len(s.samples)-s.failed, s.failed
	s.mu.Unlock()
	all := answered + s.cancelled + failed
	t := b.report.table("Clients cancel every request after 1 ms (LD-12), direct mode, slow HSM", "requests", "cancelled", "answered", "failed",
		"HSM calls meanwhile", "later", "goroutines before", "after", "p99 after", "p99 before")
	t.row(fmt.Sprint(all), fmt.Sprint(s.cancelled), fmt.Sprint(answered), fmt.Sprint(failed), fmt.Sprint(during), fmt.Sprint(late), fmt.Sprint(before), fmt.Sprint(after), millis(usual.p99), millis(g.calm.p99))
	if s.first != nil {
		t.note("The first failure: %v.", s.first)
	}
	b.report.verdict(late <= slowSessions && int(during) < all, "LD-12: HSM calls for cancelled requests, after the last", fmt.Sprintf("<= %d, one a session", slowSessions), "%d (%d for %d requests before)", late, during, all)
	b.report.verdict(after <= before+slowSessions, "LD-12: goroutines 3 s after", fmt.Sprintf("<= %d", before+slowSessions), "%d", after)
	b.report.verdict(usual.clean() == nil && usual.p99 <= max(2*g.calm.p99, 2*slowBy), "LD-12: p99 afterwards", "<= 2x", "%.1fx", ratio(usual.p99, g.calm.p99))
}

var goroutinesLine = regexp.MustCompile(`(?m)^go_goroutines (\d+)$`)

// goroutines returns how many the gateway has.
func (g *gateway) goroutines(ctx context.Context) (int, error) {
	body, err := g.call(ctx, g.state.admin, newGet("/metrics"))
	if err != nil {
		return 0, err
	}
	m := goroutinesLine.FindSubmatch(body)
	if m == nil {
		return 0, fmt.Errorf("/metrics: no go_goroutines")
	}
	return strconv.Atoi(string(m[1]))
}
