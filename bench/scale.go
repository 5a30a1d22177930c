package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// scaled compares a gateway, the first side, with larger ones, by rate.
func (b *bench) scaled(ctx context.Context, title, figure string, sides ...side) ([]figures, error) {
	m, err := b.duel(ctx, sides...)
	if err != nil {
		return nil, err
	}
	t := b.report.table(title, "", "rate", "CPU a request", "p50", "p99", "RSS")
	for i, s := range sides {
		f := m[i]
		t.row(s.name, perSecond(f.rate), micros(f.cpu), micros(f.p50), micros(f.p99), mebi(f.rss))
		if i == 0 {
			continue
		}
		name := figure
		if len(sides) > 2 {
			name += ": " + s.name
		}
		r := ratio(f.rate, m[0].rate)
		b.report.verdict(r >= 0.9, name, ">= 0.9x of the rate", "%.2fx (CPU a request %.2fx)", r, ratio(f.cpu, m[0].cpu))
	}
	return m, nil
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

// longExpiry is how long a key record is used in the second gateway with many
// keys. With many keys and the default of 5 s, nearly every request is the first
// one for 5 s under its key, and so reads the record anew.
const longExpiry = "1h"

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
	lasting, err := b.gateway(ctx, "keys-lasting", config{keystore: manyKeystore, expiry: longExpiry})
	if err != nil {
		return err
	}
	defer lasting.stop()
	if err := small.createKey(ctx, floorKey); err != nil {
		return err
	}
	requests := make([]*request, len(names))
	for i, name := range names {
		requests[i] = generate(name)
	}
	empty := large.rss()
	begin = time.Now()
	for _, g := range []*gateway{large, lasting} {
		if err := b.sweep(ctx, g, requests); err != nil {
			return fmt.Errorf("use each key once: %w", err)
		}
	}
	swept := time.Since(begin) / 2
	random := func(int) *request { return requests[rand.IntN(len(requests))] }
	many := fmt.Sprintf("%d keys", len(names))
	m, err := b.scaled(ctx, "Many keys", fmt.Sprintf("1 key vs %d keys, random", len(names)),
		side{"1 key", b.load(small.target(b.state.app), http1, always(generate(floorKey))), small.process},
		side{many, b.load(large.target(b.state.app), http1, random), large.process},
		side{many + ", cache.expiry " + longExpiry, b.load(lasting.target(b.state.app), http1, random), lasting.process})
	if err != nil {
		return err
	}
	t := b.report.tables[len(b.report.tables)-1]
	t.note("The keys were made in %v, and each was used once before, which took %v.", took.Round(time.Second), swept.Round(time.Second))
	t.note("A key in use takes %.1f KiB of RSS, of which the garbage collector's room (GOGC) is the larger part.", float64(m[1].rss-empty)/float64(len(names)))
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
	_, err = b.scaled(ctx, "Many identities", fmt.Sprintf("1 identity vs %d", b.identities),
		side{"1 identity", b.load(small.target(b.state.app), http1, next), small.process},
		side{fmt.Sprintf("%d identities, %d of them connected", b.identities, len(certificates)), b.load(large.target(certificates...), http1, next), large.process})
	return err
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
	_, err = b.scaled(ctx, "Many policies", fmt.Sprintf("10 policies vs %d", b.policies),
		side{"10 policies", b.load(small.target(b.state.app), http1, next), small.process},
		side{fmt.Sprintf("%d policies", b.policies), b.load(large.target(b.state.app), http1, next), large.process})
	return err
}
