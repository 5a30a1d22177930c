package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// A side is one of those that are compared.
type side struct {
	name    string
	load    load
	process *process
}

// duel measures the sides in turn, in the other order in every second round, and
// returns the medians of each.
func (b *bench) duel(ctx context.Context, sides ...side) ([]figures, error) {
	all := make([][]figures, len(sides))
	for round := range b.rounds {
		for j := range sides {
			i := j
			if round%2 == 1 {
				i = len(sides) - 1 - j
			}
			f, err := measure(ctx, sides[i].load, sides[i].process, b.warm, b.d)
			if err == nil {
				err = f.clean()
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", sides[i].name, err)
			}
			all[i] = append(all[i], f)
		}
	}
	medians := make([]figures, len(sides))
	for i := range all {
		medians[i] = median(all[i])
	}
	return medians, nil
}

// load returns a closed loop with as many requests at a time as are configured.
func (b *bench) load(t target, p protocol, next func(int) *request) load {
	l := load{target: t, protocol: p, conns: b.conns, streams: 1, next: next}
	if p == http2 {
		l.conns, l.streams = b.h2conns, b.streams()
	}
	return l
}

// ciphertexts is how many DEKs are decrypted in turn.
const ciphertexts = 64

// floorKey is the key of most scenarios.
const floorKey = "app-1"

// floor compares the gateway with the echo server.
func (b *bench) floor(ctx context.Context) error {
	g, err := b.gateway(ctx, "floor", config{})
	if err != nil {
		return err
	}
	defer g.stop()
	work, err := b.workOf(ctx, g)
	if err != nil {
		return err
	}
	e, err := b.startEcho(ctx, g, work)
	if err != nil {
		return err
	}
	defer e.stop()
	mode, err := g.mode(ctx, floorKey)
	if err != nil {
		return err
	}
	t := b.report.table("Gateway ("+mode+" mode, audit to a file) and echo floor", "", "server", "rate", "CPU a request", "p50", "p99", "cores", "RSS")
	for _, p := range []protocol{http1, http2} {
		for _, w := range work {
			if err := b.compare(ctx, t, p, w, mode, g, e); err != nil {
				return err
			}
		}
	}
	t.note("p50 and p99 are those of a machine that the load generator fills with what the server leaves: compare CPU.")
	return nil
}

func (b *bench) compare(ctx context.Context, t *table, p protocol, w work, mode string, g *gateway, e *process) error {
	name := fmt.Sprintf("%s %s", w.name, p)
	as := g.target(g.state.app)
	floor := as
	floor.addr = e.addr
	m, err := b.duel(ctx, side{"gateway", b.load(as, p, inTurn(w.requests)), g.process}, side{"echo", b.load(floor, p, inTurn(w.requests)), e})
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for i, server := range []string{"gateway", "echo"} {
		f := m[i]
		t.row(name, server, perSecond(f.rate), micros(f.cpu), micros(f.p50), micros(f.p99), fmt.Sprintf("%.2f", f.cores), mebi(f.rss))
	}
	r := ratio(m[0].cpu, m[1].cpu)
	b.report.verdict(r <= 1.25, fmt.Sprintf("%s, %s mode: server CPU a request", name, mode), "<= 1.25x echo", "%.2fx", r)
	return nil
}

// A work is an operation: its requests, and one answer.
type work struct {
	name     string
	path     string // that all requests' paths begin with
	requests []*request
	answer   []byte
}

// workOf makes the key and DEKs, and checks that what comes back is right.
func (b *bench) workOf(ctx context.Context, g *gateway) ([]work, error) {
	if err := g.createKey(ctx, floorKey); err != nil {
		return nil, err
	}
	gen := work{name: "generate", path: "/v1/key/generate/", requests: []*request{generate(floorKey)}}
	dec := work{name: "decrypt", path: "/v1/key/decrypt/"}
	for range ciphertexts {
		var err error
		if gen.answer, err = g.call(ctx, g.state.app, gen.requests[0]); err != nil {
			return nil, err
		}
		r, err := decrypt(floorKey, gen.answer)
		if err != nil {
			return nil, err
		}
		dec.requests = append(dec.requests, r)
	}
	var err error
	if dec.answer, err = g.call(ctx, g.state.app, dec.requests[ciphertexts-1]); err != nil {
		return nil, err
	}
	return []work{gen, dec}, samePlaintext(gen.answer, dec.answer)
}

// startEcho starts the floor, which answers as the gateway did.
func (b *bench) startEcho(ctx context.Context, g *gateway, all []work) (*process, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	args := []string{"-addr", addr, "-cert", g.state.file("server.crt"), "-key", g.state.file("server.key")}
	for _, w := range all {
		file := filepath.Join(b.dir, w.name+".answer")
		if err := os.WriteFile(file, w.answer, 0o600); err != nil {
			return nil, err
		}
		args = append(args, "-answer", w.path+"="+file)
	}
	p, err := startProcess(ctx, filepath.Join(b.dir, "echo.log"), addr, nil, b.echo, args...)
	if err != nil {
		return nil, err
	}
	as := g.target(g.state.app)
	as.addr = addr
	err = p.waitUntil(ctx, func() error {
		c, err := as.dial(ctx, http1, 0)
		if err != nil {
			return err
		}
		defer c.close()
		a, err := c.do(all[0].requests[0], dialTime)
		if err == nil && a.status != http.StatusOK {
			err = fmt.Errorf("status %d", a.status)
		}
		return err
	})
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("echo: %w", err)
	}
	return p, nil
}
