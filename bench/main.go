// Command bench measures a gateway on SoftHSM2 against a bare echo server behind
// the same TLS, in turn, in several rounds, and prints medians. It needs nothing
// but this repository and what "make run" needs, listens and connects on
// 127.0.0.1 only, and leaves nothing behind but the file of its results.
//
//	go run ./bench                     everything, minutes
//	go run ./bench -run floor,batch    these scenarios
//	go run ./bench -d 1s -rounds 1     a quick look
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A bench is one run: its settings and what they were made into.
type bench struct {
	rounds  int
	d       time.Duration // measured, in each round
	warm    time.Duration // before that
	conns   int           // of HTTP/1.1, and requests at a time over HTTP/2
	h2conns int

	pgo string // file to write a profile to; empty: run scenarios

	keys, identities, policies, idle, generates int

	repo    string // directories: of the repository
	dir     string // and of this run
	keygate string // binaries
	echo    string
	state   *state
	modes   bool // the gateway can be told a mode

	report report
}

// streams is how many requests each HTTP/2 connection carries at a time.
func (b *bench) streams() int { return max(1, b.conns/b.h2conns) }

// A scenario measures one thing.
type scenario struct {
	name string
	what string
	run  func(*bench, context.Context) error
}

var scenarios = []scenario{
	{"floor", "generate and decrypt, over HTTP/1.1 and HTTP/2, against the echo server", (*bench).floor},
	{"batch", "batches of 1,000 DEKs", (*bench).batch},
	{"calls", "HSM calls for -generates DEKs", (*bench).calls},
	{"direct", "direct mode against a bare PKCS#11 loop", (*bench).direct},
	{"keys", "1 key against -keys", (*bench).manyKeys},
	{"identities", "1 identity against -identities", (*bench).manyIdentities},
	{"policies", "10 policies against -policies", (*bench).manyPolicies},
	{"rss", "memory at rest", (*bench).rest},
	{"idle", "-idle connections that do nothing", (*bench).idleConnections},
	{"herd", "LD-09: a cold start of 1,000 keys, with -idle clients", (*bench).herd},
	{"overload", "LD-02: 2, 5 and 20 times what an HSM can do", (*bench).overload},
	{"flood", "LD-08: one identity floods, others work", (*bench).flood},
	{"floodcpu", "LD-08 from memory: one identity takes all CPU that it gets, others work", (*bench).floodCPU},
	{"cancel", "LD-12: clients cancel every request after 1 ms", (*bench).cancelled},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	run := command
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case holdCommand:
			run = func(ctx context.Context) error { return holdMain(ctx, os.Args[2:]) }
		case stormCommand:
			run = func(ctx context.Context) error { return stormMain(ctx, os.Args[2:]) }
		}
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// command is what the flags say.
func command(ctx context.Context) error {
	b := new(bench)
	names := flag.String("run", "all", "`SCENARIOS`, with commas between; -list names them")
	list := flag.Bool("list", false, "list the scenarios and end")
	results := flag.String("o", "", "write the results to `FILE` (default bench/results.md for a run of all scenarios)")
	parent := flag.String("dir", "", "make the state in a new directory in `DIRECTORY` (default the system's for temporary files)")
	flag.StringVar(&b.pgo, "pgo", "", "run no scenario; write a CPU profile of a gateway to `FILE`, for its build")
	limit := flag.Duration("timeout", 45*time.Minute, "end after this time")
	flag.IntVar(&b.rounds, "rounds", 5, "rounds, of which medians are taken")
	flag.DurationVar(&b.d, "d", 3*time.Second, "measured time of a round")
	flag.DurationVar(&b.warm, "warm", time.Second, "time before it, that is not measured")
	flag.IntVar(&b.conns, "c", 16, "connections of HTTP/1.1, and requests at a time over HTTP/2")
	flag.IntVar(&b.h2conns, "h2conns", 2, "connections of HTTP/2")
	flag.IntVar(&b.keys, "keys", 100_000, "master keys of scenario keys")
	flag.IntVar(&b.identities, "identities", 10_000, "identities of scenario identities")
	flag.IntVar(&b.policies, "policies", 1000, "policies of scenario policies")
	flag.IntVar(&b.idle, "idle", 10_000, "connections of scenario idle")
	flag.IntVar(&b.generates, "generates", 1_000_000, "DEKs of scenario calls")
	flag.Parse()
	if *list {
		for _, s := range scenarios {
			fmt.Printf("%-11s %s\n", s.name, s.what)
		}
		return nil
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("argument %q is too many", flag.Arg(0))
	}
	ctx, cancel := context.WithTimeout(ctx, *limit)
	defer cancel()
	return b.main(ctx, *names, *results, *parent)
}

// main prepares, runs the named scenarios and cleans up.
func (b *bench) main(ctx context.Context, names, results, parent string) error {
	chosen, err := choose(names)
	if err != nil {
		return err
	}
	if err := b.check(); err != nil {
		return err
	}
	if b.repo, err = repository(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(parent, "keygate-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if b.pgo != "" {
		return b.writeProfile(ctx, b.pgo)
	}
	b.report.machine = b.machine()
	failed := b.runAll(ctx, chosen)
	b.report.print(os.Stdout)
	if results == "" && names == "all" {
		results = filepath.Join(b.repo, "bench", "results.md")
	}
	if results != "" && ctx.Err() == nil {
		failed = errors.Join(failed, os.WriteFile(results, []byte(b.report.markdown()), 0o644))
	}
	return failed
}

// runAll runs scenarios one after the other. One that fails is in the report,
// and the others run all the same.
func (b *bench) runAll(ctx context.Context, chosen []scenario) error {
	var failed error
	for _, s := range chosen {
		if ctx.Err() != nil {
			break
		}
		begin := time.Now()
		fmt.Fprintf(os.Stderr, "bench: %s: %s ...", s.name, s.what)
		err := s.run(b, ctx)
		fmt.Fprintf(os.Stderr, " %v\n", time.Since(begin).Round(time.Second))
		if err != nil {
			err = fmt.Errorf("%s: %w", s.name, err)
			b.report.fail(s, b.anonymous(err))
			failed = errors.Join(failed, err)
		}
	}
	return errors.Join(failed, context.Cause(ctx))
}

// anonymous returns the first line of an error without this machine's paths.
func (b *bench) anonymous(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return strings.NewReplacer(b.dir, "(state)", b.repo, "(repository)").Replace(line)
}

func (b *bench) check() error {
	for name, n := range map[string]int{"rounds": b.rounds, "c": b.conns, "h2conns": b.h2conns, "keys": b.keys,
		"identities": b.identities, "policies": b.policies, "idle": b.idle, "generates": b.generates} {
		if n < 1 {
			return fmt.Errorf("-%s: %d is less than 1", name, n)
		}
	}
	if b.d < 100*time.Millisecond || b.warm < 0 {
		return errors.New("-d is less than 100ms, or -warm is negative")
	}
	return nil
}

// choose returns the scenarios of a list of names, in the order of the table.
func choose(names string) ([]scenario, error) {
	if names == "all" {
		return scenarios, nil
	}
	wanted := strings.Split(names, ",")
	for _, name := range wanted {
		if !slices.ContainsFunc(scenarios, func(s scenario) bool { return s.name == name }) {
			return nil, fmt.Errorf("there is no scenario %q: -list names them", name)
		}
	}
	return slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool { return !slices.Contains(wanted, s.name) }), nil
}
