package soak_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var churn = flag.Int("soak.churn", 1, "how often one of two tokens is taken away and brought back")

const (
	outOfUse   = "hsm: a token is out of use; the others do its work"
	unusable   = "hsm: the token cannot be used"
	inUseAgain = "hsm: a token is in use again"
	workerGone = "hsm: the worker process of the module has ended; another one is started"
	newWorker  = "hsm: a new worker process has the module"
)

// leftOfChurn is what may be left while the load goes on, however often a token came
// and went. How many sessions are open is told by the gateway alone: those of a
// token that was away end when the module is initialised anew.
var leftOfChurn = []rule{{figure: threads, drift: 16}, {figure: fds, drift: 8}, {figure: open, drift: 18}, {figure: goroutines, drift: 24}}

// Phases of a change, for latencies. What is told apart is when a request was
// answered.
const (
	calm   = "both tokens"
	taken  = "one is taken away"  // until the gateway has put it out of use, and a second more
	gone   = "one is away"        // after that
	coming = "one is coming back" // until the gateway has it in use, and a second more

	paused  = "a worker is stopped for 150 ms and continued"
	stopped = "a worker is stopped until it is replaced"
	killed  = "a worker is killed"
)

// times are how long requests took, by phase.
type times struct {
	mu    sync.Mutex
	phase string
	all   map[string][]time.Duration
}

func (t *times) enter(phase string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase = phase
}

func (t *times) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all[t.phase] = append(t.all[t.phase], d)
}

// TestHS16_TokensComeAndGo has two tokens, clones, serve a mixed load, and takes one
// away and brings it back, in turn. No request fails, and nothing is left of it.
func TestHS16_TokensComeAndGo(t *testing.T) {
	g := newGateway(t, options{tokens: 2, isolation: *isolation, branch: 2 * time.Second, timeout: 10 * time.Second, wait: 5 * time.Second})
	admin := g.as("admin", true)
	defer admin.close()
	l, err := newLoad(t.Context(), g)
	check(t, err)
	took := &times{phase: calm, all: make(map[string][]time.Duration)}
	l.took = took.add

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wait sync.WaitGroup
	wait.Go(func() { l.run(ctx, *soakRate, clients) })
	time.Sleep(2 * time.Second)
	before := g.settled(admin, nil, leftOfChurn)
	for n := range *churn {
		check(t, g.cycle(g.tokens[n%2], took))
		if *isolation == "worker" {
			check(t, g.shake(n, took))
		}
	}
	after := g.settled(admin, &before, leftOfChurn)
	cancel()
	wait.Wait()

	faults := append(l.ends(t.Context(), admin), g.stop(map[string]int{outOfUse: 4 * *churn, unusable: 4 * *churn, workerGone: 4 * *churn})...)
	if !after.atMost(before, leftOfChurn) {
		faults = append(faults, fmt.Sprintf("before, %v; after, %v", before, after))
	}
	if _, refused := l.sum(); refused > 0 {
		faults = append(faults, fmt.Sprintf("%d operations failed: %v", refused, l.refused))
	}
	text := l.churned(took, before, after, faults)
	t.Logf("\n%s", text)
	if *reportFile != "" {
		check(t, add(*reportFile, text))
	}
	for _, fault := range faults {
		t.Error(fault)
	}
}

// cycle takes a token away, and brings it back.
func (g *gateway) cycle(k *token, took *times) error {
	out, in := g.said(outOfUse), g.said(inUseAgain)
	took.enter(taken)
	if err := k.unplug(); err != nil {
		return err
	}
	if err := g.tryWait("a token is put out of use", func() bool { return g.said(outOfUse) > out }); err != nil {
		return err
	}
	time.Sleep(time.Second)
	took.enter(gone)
	time.Sleep(500 * time.Millisecond)
	took.enter(coming)
	if err := k.plugIn(); err != nil {
		return err
	}
	if err := g.tryWait("a token is in use again", func() bool { return g.said(inUseAgain) > in }); err != nil {
		return err
	}
	time.Sleep(time.Second)
	took.enter(calm)
	time.Sleep(500 * time.Millisecond)
	return nil
}

// shake stops and continues a worker process, stops one until the gateway replaces it,
// and kills one.
func (g *gateway) shake(n int, took *times) error {
	worker := func() int {
		all := childrenOf(g.cmd.Process.Pid)
		if len(all) == 0 {
			return 0
		}
		return all[n%len(all)]
	}
	took.enter(paused)
	for _, s := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := syscall.Kill(worker(), s); err != nil {
			return err
		}
		time.Sleep(150 * time.Millisecond)
	}
	for _, change := range []struct {
		phase  string
		signal syscall.Signal
	}{{stopped, syscall.SIGSTOP}, {killed, syscall.SIGKILL}} {
		took.enter(change.phase)
		before := g.said(newWorker)
		if err := syscall.Kill(worker(), change.signal); err != nil {
			return err
		}
		if err := g.tryWait("there is a new worker", func() bool { return g.said(newWorker) > before }); err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
	}
	took.enter(calm)
	return nil
}

// churned is the outcome, in Markdown.
func (l *load) churned(took *times, before, after sample, faults []string) string {
	var b strings.Builder
	done, refused := l.sum()
	fmt.Fprintf(&b, "## A token taken away and brought back %d times, %s\n\n", *churn, time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(&b, "Load average %s. %d operations, %d refused, %d wrong.\n\n", loadAverage(), done, refused, l.wrong)
	fmt.Fprintf(&b, "| | answers | p50 | p99 | slowest |\n|---|---|---|---|---|\n")
	took.mu.Lock()
	defer took.mu.Unlock()
	for _, phase := range []string{calm, taken, gone, coming, paused, stopped, killed} {
		all := took.all[phase]
		if len(all) == 0 {
			continue
		}
		slices.Sort(all)
		fmt.Fprintf(&b, "| %s | %d | %v | %v | %v |\n", phase, len(all), percentile(all, 50), percentile(all, 99), percentile(all, 100))
	}
	fmt.Fprintf(&b, "\nBefore: %v. After: %v.\n\n", before, after)
	word := "PASSED"
	if len(faults) > 0 {
		word = "FAILED: " + strings.Join(faults, "; ")
	}
	fmt.Fprintf(&b, "Verdict: %s\n", word)
	return b.String()
}

// percentile returns that of sorted times, to a tenth of a millisecond.
func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)*p/100].Round(100 * time.Microsecond)
}
