package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// scaled compares a gateway with a larger one, by rate.
func (b *bench) scaled(ctx context.Context, title, figure string, small, large side) error {
	m, err := b.duel(ctx, small, large)
	if err != nil {
		return err
	}
	t := b.report.table(title, "", "rate", "CPU a request", "p50", "p99", "RSS")
	for i, s := range []side{small, large} {
		f := m[i]
		t.row(s.name, perSecond(f.rate), micros(f.cpu), micros(f.p50), micros(f.p99), mebi(f.rss))
	}
	r := ratio(m[1].rate, m[0].rate)
	b.report.verdict(r >= 0.9, figure, ">= 0.9x of the rate", "%.2fx (CPU a request %.2fx)", r, ratio(m[1].cpu, m[0].cpu))
	return nil
}

// pair starts two gateways on the same token.
func (b *bench) pair(ctx context.Context, name string, small, large config) (s, l *gateway, stop func(), err error) {
	if s, err = b.gateway(ctx, name+"-small", small); err != nil {
		return nil, nil, nil, err
	}
	if l, err = b.gateway(ctx, name+"-large", large); err != nil {
		s.stop()
		return nil, nil, nil, err
	}
	return s, l, func() { s.stop(); l.stop() }, nil
}

// manyKeys compares one key with many, of which each request uses a random one.
func (b *bench) manyKeys(ctx context.Context) error {
	begin := time.Now()
	names, err := b.makeKeys(ctx, manyKeystore, b.keys)
	if err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	took := time.Since(begin)
	small, large, stop, err := b.pair(ctx, "keys", config{}, config{keystore: manyKeystore})
	if err != nil {
		return err
	}
	defer stop()
	if err := small.createKey(ctx, floorKey); err != nil {
		return err
	}
	requests := make([]*request, len(names))
	for i, name := range names {
		requests[i] = generate(name)
	}
	begin = time.Now()
	if err := b.sweep(ctx, large, requests); err != nil {
		return fmt.Errorf("use each key once: %w", err)
	}
	swept := time.Since(begin)
	one := side{"1 key", b.load(small.target(b.state.app), http1, always(generate(floorKey))), small.process}
	many := side{fmt.Sprintf("%d keys", len(names)), b.load(large.target(b.state.app), http1, func(int) *request {
		return requests[rand.IntN(len(requests))]
	}), large.process}
	if err := b.scaled(ctx, "Many keys", fmt.Sprintf("1 key vs %d keys, random", len(names)), one, many); err != nil {
		return err
	}
	t := b.report.tables[len(b.report.tables)-1]
	t.note("The keys were made in %v, and each was used once before, which took %v.", took.Round(time.Second), swept.Round(time.Second))
	return nil
}

// maxSweep bounds the first use of all keys.
const maxSweep = 10 * time.Minute

// sweep makes each request once.
func (b *bench) sweep(ctx context.Context, g *gateway, requests []*request) error {
	ctx, cancel := context.WithTimeout(ctx, maxSweep)
	defer cancel()
	s, err := b.load(g.target(b.state.app), http1, once(requests)).start(ctx)
	if err != nil {
		return err
	}
	defer s.stop()
	<-s.ended
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.figures(0, time.Since(s.begin)).clean()
}

// manyIdentities compares one identity with many, of which each connection has
// another.
func (b *bench) manyIdentities(ctx context.Context) error {
	certificates, identities, err := newIdentities(min(b.conns, b.identities))
	if err != nil {
		return err
	}
	for len(identities) < b.identities {
		identities = append(identities, randomIdentity())
	}
	rand.Shuffle(len(identities), func(i, j int) { identities[i], identities[j] = identities[j], identities[i] })
	small, large, stop, err := b.pair(ctx, "identities", config{}, config{clients: identities})
	if err != nil {
		return err
	}
	defer stop()
	if err := small.createKey(ctx, floorKey); err != nil {
		return err
	}
	next := always(generate(floorKey))
	return b.scaled(ctx, "Many identities", fmt.Sprintf("1 identity vs %d", b.identities),
		side{"1 identity", b.load(small.target(b.state.app), http1, next), small.process},
		side{fmt.Sprintf("%d identities, %d of them connected", b.identities, len(certificates)), b.load(large.target(certificates...), http1, next), large.process})
}

// manyPolicies compares ten policies with many.
func (b *bench) manyPolicies(ctx context.Context) error {
	small, large, stop, err := b.pair(ctx, "policies", config{policies: 10}, config{policies: b.policies})
	if err != nil {
		return err
	}
	defer stop()
	if err := small.createKey(ctx, floorKey); err != nil {
		return err
	}
	next := always(generate(floorKey))
	return b.scaled(ctx, "Many policies", fmt.Sprintf("10 policies vs %d", b.policies),
		side{"10 policies", b.load(small.target(b.state.app), http1, next), small.process},
		side{fmt.Sprintf("%d policies", b.policies), b.load(large.target(b.state.app), http1, next), large.process})
}
