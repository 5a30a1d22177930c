package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// stormCommand is the first argument of this program where it is the process that
// floods. In the load generator's own, its goroutines would stand between the
// others' and the CPU, and be taken for the server's delay.
const stormCommand = "flood-connections"

// stormNice is how much less of the CPU that process gets than the gateway and the
// generator of the others' load (nice(1)): what is measured is the gateway's
// fairness, and not the kernel's.
const stormNice = 10

// stormConns is how many connections of HTTP/1.1 it keeps busy, in a closed loop.
const stormConns = 500

// cpuRate is what the others of floodCPU send, together, in requests a second.
const cpuRate = 400

// stormMain is that process: it opens connections, says so, floods until its
// standard input ends, and says how many requests a second were done, refused, and
// failed.
func stormMain(ctx context.Context, args []string) error {
	t, n, err := childArguments(args)
	if err != nil {
		return err
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, stormNice); err != nil {
		return err
	}
	s, err := load{target: t, protocol: http1, conns: n, streams: 1, next: always(generate(floorKey))}.start(ctx)
	if err != nil {
		return err
	}
	fmt.Println(n)
	from := time.Since(s.begin)
	io.Copy(io.Discard, os.Stdin)
	to := time.Since(s.begin)
	s.stop()
	f := s.figures(from, to)
	fmt.Println(int(f.rate))
	fmt.Println(int(f.refused))
	fmt.Println(f.others)
	return nil
}

// floodCPU has one identity keep many connections busy with what is served from
// memory, so that it is the gateway's CPU that is flooded, while others send little
// (LD-08).
func (b *bench) floodCPU(ctx context.Context) error {
	certificates, identities, err := newIdentities(others)
	if err != nil {
		return err
	}
	g, err := b.gateway(ctx, "floodcpu", config{clients: identities})
	if err != nil {
		return err
	}
	defer g.stop()
	if err := g.createKey(ctx, floorKey); err != nil {
		return err
	}
	peak, err := measure(ctx, b.load(g.target(g.state.app), http1, always(generate(floorKey))), g.process, b.warm, b.d)
	if err != nil {
		return err
	}
	quiet := load{target: g.target(certificates...), protocol: http1, conns: 4 * others, streams: 1, next: always(generate(floorKey)), rate: cpuRate}
	alone, err := b.duel(ctx, side{"others alone", quiet, g.process})
	if err != nil {
		return err
	}
	elsewhere, err := b.gateway(ctx, "floodcpu-elsewhere", config{})
	if err != nil {
		return err
	}
	control, _, err := b.besideStorm(ctx, elsewhere, quiet, g)
	elsewhere.stop()
	if err != nil {
		return err
	}
	beside, storm, err := b.besideStorm(ctx, g, quiet, g)
	if err != nil {
		return err
	}
	b.reportFlood("One identity floods (LD-08), from memory", alone[0], beside, storm)
	t := b.report.tables[len(b.report.tables)-1]
	t.row("others, the flood is at another gateway", perSecond(control.rate), millis(control.p50), millis(control.p99), perSecond(control.refused), fmt.Sprint(control.others))
	b.report.verdict(beside.p99 <= 2*control.p99, "The same: p99 of the others against that beside a flood of another gateway of the same machine", "<= 2x", "%.1fx", ratio(beside.p99, control.p99))
	t.note("What the kernel's scheduler does to the others when a flood takes the CPUs, whoever is flooded, is in the last row.")
	t.note("The flood is %d connections of HTTP/1.1 in a closed loop, of a process of its own at nice %d; the others send %d requests a second. With %d connections, %s are served.",
		stormConns, stormNice, cpuRate, b.conns, perSecond(peak.rate))
	return ctx.Err()
}

// besideStorm measures a load of g while a flood of flooded lasts.
func (b *bench) besideStorm(ctx context.Context, flooded *gateway, quiet load, g *gateway) (beside, storm figures, err error) {
	h, err := startChild(ctx, stormCommand, flooded, stormConns)
	if err != nil {
		return beside, storm, err
	}
	defer h.stop()
	sleep(ctx, b.warm)
	var rounds []figures
	for range b.rounds {
		f, err := measure(ctx, quiet, g.process, b.warm, b.d)
		if err != nil {
			return beside, storm, err
		}
		rounds = append(rounds, f)
	}
	h.in.Close()
	for _, into := range []func(int){
		func(n int) { storm.rate = float64(n) }, func(n int) { storm.refused = float64(n) }, func(n int) { storm.others = n },
	} {
		n, err := h.number()
		if err != nil {
			return beside, storm, err
		}
		into(n)
	}
	return median(rounds), storm, nil
}
