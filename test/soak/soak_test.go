package soak_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// clients is how many work at a time.
const clients = 12

// TestSK01_Soak runs a gateway under a mixed load, at a steady rate, and judges
// whether it stays as it is. It fails for any answer that is wrong, any race, any
// error of the log that was not asked for, and an audit log that has not each
// request once. The race detector does not give back all the memory that it takes
// (https://go.dev/issue/37233, https://go.dev/issue/26813), so that there are two
// gateways: one that is built with it, and one without, for the memory.
func TestSK01_Soak(t *testing.T) {
	life := max(*soakTime/20, 2*time.Second) // of branch keys: they end all the time
	var gateways []*gateway
	for build := range strings.SplitSeq(*builds, ",") {
		binary := map[string]string{"race": program.binary, "plain": program.plain}[build]
		if binary == "" {
			t.Fatalf("-soak.builds: there is no build %q", build)
		}
		gateways = append(gateways, newGateway(t, options{binary: binary, tokens: *tokens, isolation: *isolation, branch: life, timeout: 10 * time.Second, wait: 5 * time.Second}))
	}
	for _, g := range gateways {
		t.Run(g.build(), func(t *testing.T) {
			t.Parallel()
			g.t = t
			g.soak(t)
		})
	}
}

// requestFailed is what the log says of an answer of 500 and more.
const requestFailed = "gateway: request failed"

// build says which build of the program g is.
func (g *gateway) build() string {
	if g.options.binary == program.plain {
		return "plain"
	}
	return "race"
}

func (g *gateway) soak(t *testing.T) {
	every := min(10*time.Second, *soakTime/25)
	admin := g.as("admin", true)
	defer admin.close()
	l, err := newLoad(t.Context(), g)
	check(t, err)

	ctx, cancel := context.WithTimeout(t.Context(), *soakTime)
	defer cancel()
	audit := &auditLog{g: g}
	var good, bad int
	var wait sync.WaitGroup
	wait.Go(func() { l.run(ctx, *soakRate, clients) })
	wait.Go(func() { l.badConnections(ctx, 200*time.Millisecond) })
	wait.Go(func() { good, bad = l.reloads(ctx, min(5*time.Second, *soakTime/10), audit) })
	samples := g.watch(ctx, l, admin, every)
	wait.Wait()

	faults := l.ends(t.Context(), admin)
	_, refused := l.sum()
	// What was answered 503 is in the log, and so is what would have been if its client
	// had not left.
	faults = append(faults, g.stop(map[string]int{notReloaded: bad, requestFailed: 2 * refused})...)
	if err := audit.count(g.path("audit.log")); err != nil {
		faults = append(faults, err.Error())
	}
	faults = append(faults, l.audited(audit)...)
	verdicts := judge(samples, rules(time.Duration((1-warmUp)*float64(*soakTime)), clients, g.build() == "race"))
	for _, v := range verdicts {
		if !v.ok {
			faults = append(faults, v.figure+" grows")
		}
	}
	text := l.report(samples, verdicts, faults, good, bad)
	t.Logf("\n%s", text)
	if *reportFile != "" {
		check(t, add(*reportFile, text))
	}
	if len(faults) > 0 {
		t.Errorf("%d faults: %s", len(faults), strings.Join(faults, "\n"))
	}
}

// watch takes a sample each interval until ctx ends. An hour is long: each is
// written to standard error, too.
func (g *gateway) watch(ctx context.Context, l *load, admin *door, interval time.Duration) (samples []sample) {
	begun := time.Now()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		s, err := g.look(admin, time.Since(begun))
		l.count("sample", 0, err)
		if err == nil {
			samples = append(samples, s)
			done, refused := l.sum()
			fmt.Fprintf(os.Stderr, "%s, %v: %d operations, %d refused, %d wrong; %s\n", g.build(), s.at.Round(time.Second), done, refused, l.wrongs(), s)
		}
		select {
		case <-ctx.Done():
			return samples
		case <-g.done:
			return samples
		case <-tick.C:
		}
	}
}

func (s sample) String() string {
	var all []string
	for _, c := range columns {
		if v, there := s.figures[c]; there {
			all = append(all, c+" "+short(v))
		}
	}
	return strings.Join(all, ", ")
}

func (l *load) wrongs() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wrong
}

// maxRefused is the part of operations that may be answered "try again", on a
// machine that has other things to do.
const maxRefused = 0.001

// ends opens what was kept, once more, and returns what was wrong with the load.
// It asks the gateway how many requests it has served.
func (l *load) ends(ctx context.Context, admin *door) (faults []string) {
	h := hand{load: l, door: admin}
	for _, k := range l.keys {
		for _, s := range k.sealed {
			l.count("opened at the end", 0, h.opens(ctx, k.name, s))
		}
	}
	all, err := scrape(admin)
	l.count("sample", 0, err)
	l.requests = int(total(all, "keygate_requests_total"))
	done, refused := l.sum()
	if l.wrong > 0 {
		faults = append(faults, fmt.Sprintf("%d wrong answers, the first of them: %s", l.wrong, strings.Join(l.faults, "; ")))
	}
	if float64(refused) > maxRefused*float64(done) {
		faults = append(faults, fmt.Sprintf("%d of %d operations were refused: %v", refused, done, l.refused))
	}
	for _, o := range operations {
		if l.done[o.name] == 0 && done > 2000 {
			faults = append(faults, "there was no operation "+o.name)
		}
	}
	return faults
}

// audited compares the entries of the audit log with the requests that the gateway
// has counted.
func (l *load) audited(a *auditLog) []string {
	if a.entries != l.requests {
		return []string{fmt.Sprintf("the audit log has %d entries for %d requests", a.entries, l.requests)}
	}
	return nil
}

// report is the outcome of a run, in Markdown.
func (l *load) report(samples []sample, verdicts []verdict, faults []string, good, bad int) string {
	var b strings.Builder
	done, refused := l.sum()
	root := fmt.Sprintf("%d token(s)", *tokens)
	if *isolation != "" {
		root += ", isolation: " + *isolation
	}
	fmt.Fprintf(&b, "## %v, %s, build: %s, %s\n\n", *soakTime, root, l.g.build(), time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(&b, "%s, %d CPUs, load average %s. %d operations (%.0f a second), %d requests in all; %d refused, %d wrong; the slowest (%s) took %v. "+
		"%d reloads by SIGHUP with a rotation of the audit log, %d of a configuration that is wrong. The token made %.0f sessions and destroyed %.0f objects.\n\n",
		runtime.Version(), runtime.NumCPU(), loadAverage(), done, float64(done)/soakTime.Seconds(), l.requests, refused, l.wrong, l.slowest, l.slow.Round(time.Millisecond),
		good+bad, bad, last(samples).figures[opened], last(samples).figures[destroyed])
	for _, name := range slices.Sorted(maps.Keys(l.refused)) {
		fmt.Fprintf(&b, "Refused %d times: %s\n\n", l.refused[name], name)
	}
	fmt.Fprintf(&b, "After the first fifth:\n\n%s\n", verdictHead)
	for _, v := range verdicts {
		fmt.Fprintln(&b, v)
	}
	fmt.Fprintf(&b, "\n%s\n", table(samples, 25))
	kinds := make([]string, 0, len(l.done))
	for _, name := range slices.Sorted(maps.Keys(l.done)) {
		kinds = append(kinds, fmt.Sprintf("%s %d", name, l.done[name]))
	}
	fmt.Fprintf(&b, "Operations: %s.\n\n", strings.Join(kinds, ", "))
	word := "PASSED"
	if len(faults) > 0 {
		word = "FAILED: " + strings.Join(faults, "; ")
	}
	fmt.Fprintf(&b, "Verdict: %s\n", word)
	return b.String()
}

func last(samples []sample) sample {
	if len(samples) == 0 {
		return sample{}
	}
	return samples[len(samples)-1]
}

// loadAverage returns that of the last minute (proc_loadavg(5)).
func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	return strings.SplitN(string(b), " ", 2)[0]
}

// add appends text to a file.
func add(name, text string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString("\n" + text)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
