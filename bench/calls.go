package main

import (
	"context"
	"fmt"
	"time"

	"github.com/keygate/keygate/hsm/p11shim"
)

// maxCallsTime bounds the scenario where each DEK is an HSM call.
const maxCallsTime = 3 * time.Minute

// calls counts what the HSM has to do for many DEKs under one key: by the gateway
// that made the key, and for the first DEK after a restart.
func (b *bench) calls(ctx context.Context) error {
	s, err := b.newShim()
	if err != nil {
		return err
	}
	defer s.Close()
	mode, made, all, err := b.countCalls(ctx, s, true, b.generates)
	if err != nil {
		return err
	}
	_, _, first, err := b.countCalls(ctx, s, false, 1)
	if err != nil {
		return err
	}
	b.reportCalls(mode, made, all, first)
	return nil
}

// countCalls starts a gateway and counts its calls for n DEKs, or, if there is
// no time for so many, for those made: from the first DEK on, with a key that it
// has made itself, or all since it was started, with one that it finds.
func (b *bench) countCalls(ctx context.Context, s *shim, create bool, n int) (mode string, made int, calls p11shim.Tally, err error) {
	g, err := b.gateway(ctx, "calls", config{module: s.module}, s.Env()...)
	if err != nil {
		return "", 0, nil, err
	}
	defer g.stop()
	if create {
		if err := g.createKey(ctx, callsKey); err != nil {
			return "", 0, nil, err
		}
		if mode, err = g.mode(ctx, callsKey); err != nil {
			return "", 0, nil, err
		}
	}
	before, err := s.Tally()
	if err != nil {
		return "", 0, nil, err
	}
	if made, err = b.make(ctx, g, n); err != nil {
		return "", 0, nil, err
	}
	after, err := s.Tally()
	return mode, made, after.Since(before), err
}

// callsKey is the key of scenario calls, which the first gateway makes.
const callsKey = "app-calls"

// make generates n DEKs, or as many as there is time for, and returns how many
// those were.
func (b *bench) make(ctx context.Context, g *gateway, n int) (int, error) {
	r := generate(callsKey)
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

func (b *bench) reportCalls(mode string, made int, all, first p11shim.Tally) {
	t := b.report.table("HSM calls, counted at the module, "+mode+" mode", "", "DEKs", "operations", "which")
	n := all.Of(operations)
	t.row("by the gateway that made the key", fmt.Sprint(made), fmt.Sprint(n), or(all.List(operations), "none"))
	t.row("the first one after a restart", "1", fmt.Sprint(first.Of(operations)), or(first.List(operations), "none"))
	t.note("An operation is two calls of functions where it has to be begun, as C_EncryptInit and C_Encrypt do.")
	t.note("After a restart come, once for each key: it is unwrapped (C_UnwrapKey) and checked (C_Decrypt), its record is verified, " +
		"and authenticated anew with the operations that this node reserves in it (C_Sign twice).")
	if made < b.generates {
		t.note("There was time for %d DEKs of %d only.", made, b.generates)
	}
	b.report.verdict(n <= 4 && made >= 1_000_000, fmt.Sprintf("HSM calls (operations) for %d generate on one key, %s mode", made, mode), "<= 4 for 1,000,000", "%d", n)
}
