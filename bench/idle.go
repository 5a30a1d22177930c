package main

import (
	"context"
	"fmt"
	"syscall"
)

// idleShare is the load beside idle connections, as a part of what the gateway
// can do.
const idleShare = 0.3

// idleConnections measures what connections cost that do nothing.
func (b *bench) idleConnections(ctx context.Context) error {
	g, err := b.gateway(ctx, "idle", config{})
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.createKey(ctx, floorKey); err != nil {
		return err
	}
	active := b.load(g.target(g.state.app), http1, always(generate(floorKey)))
	peak, err := measure(ctx, active, g.process, b.warm, b.d)
	if err != nil {
		return err
	}
	active.rate = idleShare * peak.rate
	alone, err := b.duel(ctx, side{"without idle connections", active, g.process})
	if err != nil {
		return err
	}
	sleep(ctx, settleTime)
	before := g.rss()
	n := min(b.idle, descriptors())
	h, err := startHolder(ctx, g, n)
	if err != nil {
		return err
	}
	defer h.stop()
	sleep(ctx, settleTime)
	after := g.rss()
	beside, err := b.duel(ctx, side{"with idle connections", active, g.process})
	if err != nil {
		return err
	}
	alive, err := h.count()
	if err != nil {
		return err
	}
	b.reportIdle(n, alive, before, after, alone[0], beside[0])
	return nil
}

func (b *bench) reportIdle(n, alive, before, after int, alone, beside figures) {
	t := b.report.table("Idle mTLS connections", "", "rate", "CPU a request", "p50", "p99", "RSS at rest")
	t.row("none", perSecond(alone.rate), micros(alone.cpu), micros(alone.p50), micros(alone.p99), mebi(before))
	t.row(fmt.Sprint(n), perSecond(beside.rate), micros(beside.cpu), micros(beside.p50), micros(beside.p99), mebi(after))
	t.note("The load is %.0f %% of what the gateway could do. %d of %d idle connections were open at the end.", idleShare*100, alive, n)
	each := float64(after-before) / float64(n)
	name := fmt.Sprintf("%d idle mTLS connections", n)
	b.report.verdict(alive == n && each <= 50, name+": memory each", "<= 50 KiB", "%.1f KiB, %d alive", each, alive)
	r := ratio(beside.p99, alone.p99)
	b.report.verdict(alive == n && r <= 2, name+": p99 of active ones", "<= 2x", "%.2fx", r)
}

// descriptors is how many connections this process and the server may each have
// beside what else they need.
func descriptors() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1
	}
	return max(1, int(min(limit.Max, 1<<20))-500)
}
