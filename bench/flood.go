package main

import (
	"context"
	"fmt"
	"time"
)

// Who the others of LD-08 are, and how much the flooding identity sends.
const (
	others      = 8
	othersShare = 0.2 // of the peak, together
	floodTimes  = 5   // the peak
)

// flood has one identity send more than the HSM can do, while others send
// little (LD-08).
func (b *bench) flood(ctx context.Context) error {
	certificates, identities, err := newIdentities(others)
	if err != nil {
		return err
	}
	g, err := b.slowGateway(ctx, "flood", config{clients: identities})
	if err != nil {
		return err
	}
	defer g.stop()
	quiet := load{target: g.target(certificates...), protocol: http1, conns: 4 * others, streams: 1, next: always(generate(floorKey)), rate: othersShare * g.peak}
	alone, err := b.duel(ctx, side{"others alone", quiet, g.process})
	if err != nil {
		return err
	}
	storm, err := load{target: g.target(g.state.app), protocol: http1, conns: overloadConns, streams: 1, next: always(generate(floorKey)), rate: floodTimes * g.peak}.start(ctx)
	if err != nil {
		return err
	}
	defer storm.stop()
	sleep(ctx, b.warm)
	from := time.Since(storm.begin)
	var rounds []figures
	for range b.rounds {
		f, err := measure(ctx, quiet, g.process, b.warm, b.d)
		if err != nil {
			return err
		}
		rounds = append(rounds, f)
	}
	to := time.Since(storm.begin)
	storm.stop()
	b.reportFlood("One identity floods (LD-08), direct mode, slow HSM", alone[0], median(rounds), storm.figures(from, to))
	b.report.tables[len(b.report.tables)-1].note("The flood is %d times, the others together %.0f %% of what the HSM can do.", floodTimes, othersShare*100)
	return ctx.Err()
}

func (b *bench) reportFlood(title string, alone, beside, storm figures) {
	t := b.report.table(title, "", "answered 200", "p50", "p99", "refused", "other")
	row := func(name string, f figures) {
		t.row(name, perSecond(f.rate), millis(f.p50), millis(f.p99), perSecond(f.refused), fmt.Sprint(f.others))
	}
	row(fmt.Sprintf("%d others alone", others), alone)
	row(fmt.Sprintf("%d others beside the flood", others), beside)
	row("the flooding identity", storm)
	r := ratio(beside.p99, alone.p99)
	b.report.verdict(r <= 2 && beside.rate > 0, title+": p99 of the others", "<= 2x", "%.1fx", r)
	b.report.verdict(beside.refused == 0 && beside.others == 0, title+": requests of the others refused", "0", "%.0f /s, %d failed", beside.refused, beside.others)
}
