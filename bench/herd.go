package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/keygate/keygate/hsm/p11shim"
)

// The cold start of scenario herd.
const (
	herdKeystore = "keystore-herd"
	herdKeys     = 1000
	herdConns    = 1000                  // more would be closed while they are opened: a connection has its first request soon
	herdSlow     = 20 * time.Millisecond // added to each operation of the HSM
	maxHerdTime  = 2 * time.Minute
)

// herdOperations are what a first data key costs the HSM.
var herdOperations = []string{"C_UnwrapKey", "C_Decrypt", "C_Sign", "C_GenerateRandom", "C_Encrypt"}

// herd starts a gateway with nothing in memory before a slow HSM, and has as
// many clients as scenario idle ask for one DEK each, under many keys.
func (b *bench) herd(ctx context.Context) error {
	names, err := b.makeKeys(ctx, herdKeystore, herdKeys)
	if err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	s, err := b.newShim()
	if err != nil {
		return err
	}
	defer s.Close()
	g, err := b.gateway(ctx, "herd", config{keystore: herdKeystore, module: s.module}, s.Env()...)
	if err != nil {
		return err
	}
	defer g.stop()
	defer s.Slow(0, herdOperations...)
	if err := s.Slow(herdSlow, herdOperations...); err != nil {
		return err
	}
	before, err := s.Tally()
	if err != nil {
		return err
	}
	clients := b.idle
	requests := make([]*request, clients)
	for i := range requests {
		requests[i] = generate(names[i%len(names)])
	}
	rand.Shuffle(clients, func(i, j int) { requests[i], requests[j] = requests[j], requests[i] })
	took, refused, err := b.stampede(ctx, g, requests)
	if err != nil {
		return err
	}
	after, err := s.Tally()
	if err != nil {
		return err
	}
	b.reportHerd(clients, min(clients, herdKeys), took, refused, after.Since(before))
	return nil
}

// stampede makes all requests at the same time, or as many as there are
// connections, which are open already, and all again if any was refused, until
// none is. It returns how long the gateway took until it was warm.
func (b *bench) stampede(ctx context.Context, g *gateway, requests []*request) (took time.Duration, refused int, err error) {
	ctx, cancel := context.WithTimeout(ctx, maxHerdTime)
	defer cancel()
	for {
		l := b.load(g.target(b.state.app), http1, once(requests))
		l.conns = min(herdConns, len(requests), descriptors())
		s, err := l.start(ctx)
		if err != nil {
			return 0, 0, err
		}
		<-s.ended
		wave := time.Since(s.begin)
		took += wave
		f := s.figures(0, wave)
		if err := ctx.Err(); err != nil {
			return took, refused, err
		}
		if f.others > 0 {
			return took, refused, fmt.Errorf("%d requests failed: %w", f.others, f.first)
		}
		n := int(f.refused*wave.Seconds() + 0.5)
		refused += n
		if n == 0 {
			return took, refused, nil
		}
	}
}

func (b *bench) reportHerd(clients, keys int, took time.Duration, refused int, calls p11shim.Tally) {
	t := b.report.table("LD-09: a cold start, an HSM of 20 ms more an operation", "clients", "keys", "warm after", "refused", "unwraps", "HSM operations")
	unwraps := calls["C_UnwrapKey"]
	t.row(fmt.Sprint(clients), fmt.Sprint(keys), fmt.Sprintf("%.1f s", took.Seconds()), fmt.Sprint(refused), fmt.Sprint(unwraps), fmt.Sprint(calls.Of(operations)))
	t.note("The clients share %d connections, open before they begin. If any is refused (429 or 503) all come again, at once.", min(herdConns, clients))
	name := fmt.Sprintf("LD-09: cold start with %d clients and %d keys", clients, keys)
	b.report.verdict(unwraps == uint64(keys), name+": unwraps", "one for each key", "%d", unwraps)
	b.report.verdict(took <= 10*time.Second, name+": warm", "<= 10 s", "%.1f s", took.Seconds())
}
