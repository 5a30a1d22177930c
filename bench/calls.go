package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// maxCallsTime bounds the scenario where each DEK is an HSM call.
const maxCallsTime = 3 * time.Minute

// calls counts what the HSM has to do for many DEKs under one key, from the
// first on.
func (b *bench) calls(ctx context.Context) error {
	s, err := b.newShim(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	g, err := b.gateway(ctx, "calls", config{module: s.module}, s.env()...)
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.createKey(ctx, floorKey); err != nil {
		return err
	}
	mode, err := g.mode(ctx, floorKey)
	if err != nil {
		return err
	}
	before, err := s.calls()
	if err != nil {
		return err
	}
	made, err := b.make(ctx, g, b.generates)
	if err != nil {
		return err
	}
	after, err := s.calls()
	if err != nil {
		return err
	}
	b.reportCalls(mode, made, after.since(before))
	return nil
}

// make generates n DEKs, or as many as there is time for, and returns how many
// those were.
func (b *bench) make(ctx context.Context, g *gateway, n int) (int, error) {
	r := generate(floorKey)
	l := b.load(g.target(g.state.app), http1, func(i int) *request {
		if i >= n {
			return nil
		}
		return r
	})
	s, err := l.start(ctx)
	if err != nil {
		return 0, err
	}
	defer s.stop()
	select {
	case <-s.ended:
	case <-time.After(maxCallsTime):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	s.stop()
	f := s.figures(0, time.Since(s.begin))
	return len(s.samples), f.clean()
}

func (b *bench) reportCalls(mode string, made int, calls tally) {
	all := slices.Sorted(maps.Keys(calls))
	n := calls.of(operations)
	t := b.report.table("HSM calls, counted at the module", "mode", "DEKs", "operations", "functions called", "operations for 1,000,000 DEKs")
	t.row(mode, fmt.Sprint(made), fmt.Sprint(n), fmt.Sprint(calls.of(all)), fmt.Sprintf("%.1f", float64(n)*1e6/float64(made)))
	var lines []string
	for _, f := range all {
		lines = append(lines, fmt.Sprintf("%s %d", f, calls[f]))
	}
	t.note("An operation is two calls of functions where it has to be begun, as C_EncryptInit and C_Encrypt do. All calls: %s.", or(strings.Join(lines, ", "), "none"))
	if made < b.generates {
		t.note("There was time for %d DEKs of %d only.", made, b.generates)
	}
	b.report.verdict(n <= 4 && made >= 1_000_000, fmt.Sprintf("HSM calls (operations) for %d generate on one key, %s mode", made, mode), "<= 4 for 1,000,000", "%d", n)
}
