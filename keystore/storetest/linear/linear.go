// Package linear checks that a keystore.Store is linearizable: that whatever
// clients on several nodes do at the same time, and whatever fails meanwhile, there
// is one order of their calls, each at a moment between its beginning and its end,
// in which a store in one place would have answered the same. Porcupine looks for
// that order.
package linear

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/keystore/storetest/servers"
)

// Nodes are three gateways' ways to one store, or so many.
type Nodes struct {
	Stores  []keystore.Store
	Proxies [][]*netfault.Proxy // before the servers of each node; nil: there is no network
}

// A Harness makes what histories are run on.
type Harness struct {
	// Open opens the same store on three nodes more, until the test ends. It is
	// called by the goroutine of the test.
	Open func(t *testing.T) Nodes
	// Break breaks something of the servers, and repairs it before it returns. It is
	// called again and again by the goroutine of the test. Nil: nothing is broken.
	Break func(t *testing.T, rng *rand.Rand)
	// Every is how long servers are well, at most, before the next break; zero is 2 s.
	Every time.Duration
	// Lanes is how many histories run at the same time; zero is 4.
	Lanes int
	// Histories is how many are run, if the environment does not say; zero is 30, or
	// 1,000 with KEYGATE_LONG=1.
	Histories int
}

// Run runs histories and has each of them checked. KEYGATE_HISTORIES says how many,
// KEYGATE_SEED with which seed the first begins; the next has the next.
func Run(t *testing.T, h Harness) {
	first, n := Seed(t), histories(t, h)
	t.Logf("%d histories from KEYGATE_SEED=%d on", n, first)
	lanes := make([]Nodes, min(cmp.Or(h.Lanes, 4), n))
	for i := range lanes {
		lanes[i] = h.Open(t)
	}
	start := time.Now()
	sum := &summary{}
	var next atomic.Int64
	var all sync.WaitGroup
	for _, nodes := range lanes {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && !t.Failed(); i = next.Add(1) - 1 {
				sum.check(t, record(t.Context(), nodes, first+uint64(i)))
			}
		})
	}
	breaks := breakUntil(t, h, first, &all)
	t.Logf("%d histories, %d calls of which %d of unknown outcome, %d breaks of servers, %d violations, in %v",
		sum.histories, sum.calls, sum.unknown, breaks, sum.violations, time.Since(start).Round(time.Millisecond))
}

// breakUntil breaks servers until all is done, and returns how often.
func breakUntil(t *testing.T, h Harness, seed uint64, all *sync.WaitGroup) (breaks int) {
	done := make(chan struct{})
	go func() { defer close(done); all.Wait() }()
	// A break that ends the test must not leave those behind who use its stores.
	defer all.Wait()
	rng := rand.New(rand.NewPCG(seed, 1<<32))
	for {
		select {
		case <-done:
			return breaks
		case <-time.After(time.Duration(rng.Int64N(int64(cmp.Or(h.Every, 2*time.Second))))):
		}
		if h.Break != nil {
			h.Break(t, rng)
			breaks++
		}
	}
}

func histories(t *testing.T, h Harness) int {
	if n, ok := number(t, "KEYGATE_HISTORIES"); ok && n > 0 {
		return int(n)
	}
	if h.Histories > 0 {
		return h.Histories
	}
	return servers.Long(30, 1000)
}

// Seed returns the seed of the first history: KEYGATE_SEED, or a random one.
func Seed(t *testing.T) uint64 {
	t.Helper()
	if n, ok := number(t, "KEYGATE_SEED"); ok {
		return n
	}
	return rand.Uint64() >> 16 // short enough to be copied by hand
}

func number(t *testing.T, name string) (n uint64, ok bool) {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n, true
}

// A summary is what has come of the histories so far.
type summary struct {
	mu                                    sync.Mutex
	histories, calls, unknown, violations int
}

// check checks a history, and fails the test if it is not that of a store.
func (s *summary) check(t *testing.T, r *recorder) {
	err := r.check("") // the temporary directory outlives the test
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.histories++; s.histories%100 == 0 {
		t.Logf("%d histories so far, %d calls, %d violations", s.histories, s.calls, s.violations)
	}
	s.calls += len(r.history)
	for _, op := range r.history {
		if op.Output.(output).unknown() {
			s.unknown++
		}
	}
	if err != nil {
		s.violations++
		t.Errorf("KEYGATE_SEED=%d KEYGATE_HISTORIES=1: %v", r.seed, err)
	}
}

// patience is how long porcupine may look for an order. It takes milliseconds,
// unless many outcomes are unknown.
const patience = 30 * time.Second

// check returns what is wrong with a history. One that has no order is left as a page
// that shows it, in the directory pages; empty means that for temporary files.
func (r *recorder) check(pages string) error {
	if len(r.strange) > 0 {
		return fmt.Errorf("answers that no store may give: %s", strings.Join(r.strange, "; "))
	}
	if err := checkRevisions(r.history); err != nil {
		return fmt.Errorf("%w\n%s", err, r.text())
	}
	result, info := porcupine.CheckOperationsVerbose(model, r.history, patience)
	if result == porcupine.Ok {
		return nil
	}
	page, err := r.draw(pages, info)
	if err != nil {
		page = err.Error()
	}
	if result == porcupine.Unknown {
		return fmt.Errorf("no order of calls was found in %v, which proves nothing; see %s", patience, page)
	}
	return fmt.Errorf("not linearizable; see %s\n%s", page, r.text())
}

// draw writes the page and returns its path.
func (r *recorder) draw(pages string, info porcupine.LinearizationInfo) (string, error) {
	f, err := os.CreateTemp(pages, fmt.Sprintf("keygate-linear-%d-*.html", r.seed))
	if err != nil {
		return "", err
	}
	defer f.Close()
	return f.Name(), porcupine.Visualize(model, info, f)
}

// text returns the calls in the order of their beginnings, with times in
// microseconds.
func (r *recorder) text() string {
	var b strings.Builder
	ops := slices.SortedFunc(slices.Values(r.history), func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	for _, op := range ops {
		fmt.Fprintf(&b, "%8d %8d client %d %s\n", op.Call/1000, op.Return/1000, op.ClientId, describe(op.Input.(input), op.Output.(output)))
	}
	return b.String()
}
