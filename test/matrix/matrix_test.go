package matrix_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var tablesFile = flag.String("write-tables", "", "write the tables of roots, stores and faults into this `FILE`")

// TestMatrix has a client live with a gateway over each root and store, through a
// restart.
func TestMatrix(t *testing.T) {
	v := newVaults(t)
	table := newTable("root of trust", names(roots(t, v)), names(stores(v)))
	t.Run("pairs", func(t *testing.T) {
		for _, root := range roots(t, v) {
			for _, store := range stores(v) {
				t.Run(root.name+" x "+store.name, func(t *testing.T) {
					t.Parallel()
					s := &skips{TB: t}
					defer func() { table.set(root.name, store.name, s.result()) }()
					live(t, root.make(s), store.make(s))
				})
			}
		}
	})
	t.Logf("\n%s", table)
	if *tablesFile != "" && !t.Failed() {
		if err := os.WriteFile(*tablesFile, []byte(page(table)), 0o644); err != nil {
			t.Error(err)
		}
	}
}

func names(all []backend) (list []string) {
	for _, b := range all {
		list = append(list, b.name)
	}
	return list
}

func live(t *testing.T, root, store section) {
	n := newNode(t, root, store, longTimeout, "")
	n.start()
	l := &life{t: t, c: n.client()}
	l.first(root.imports)
	n.stop()
	n.start()
	l.c = n.client()
	if store.forgets {
		l.forgotten()
	} else {
		l.again()
	}
	if ready := n.send("GET", "/v1/ready", ""); ready.status != 200 {
		t.Errorf("ready is %d %s", ready.status, ready.body)
	}
	n.audited()
	n.hides()
	n.stop()
}

// audited checks that the audit log has what first did, with its outcomes.
func (n *node) audited() {
	n.t.Helper()
	count := make(map[string]int)
	for _, e := range n.audit() {
		count[e.Operation+" "+e.Outcome]++
	}
	for _, want := range []string{
		"key:create ok", "key:create exists", "key:create pending deletion", "key:describe not found", "key:generate ok",
		"key:generate pending deletion", "key:decrypt ok", "key:decrypt invalid", "key:encrypt ok", "key:hmac ok", "key:list ok",
		"key:batch-generate ok", "key:batch-decrypt ok", "key:mode ok", "key:delete ok",
	} {
		if count[want] == 0 {
			n.t.Errorf("the audit log has no %q; it has %v", want, count)
		}
	}
	for outcome, times := range count {
		if strings.HasSuffix(outcome, " unavailable") || strings.HasSuffix(outcome, " error") || strings.HasSuffix(outcome, " denied") {
			n.t.Errorf("the audit log has %d of %q", times, outcome)
		}
	}
}

// skips keeps the reason for a skip.
type skips struct {
	testing.TB
	reason string
}

func (s *skips) Skip(args ...any) {
	s.reason = strings.TrimSpace(fmt.Sprintln(args...))
	s.TB.Skip(args...)
}

func (s *skips) Skipf(format string, args ...any) { s.Skip(fmt.Sprintf(format, args...)) }

func (s *skips) result() string {
	switch {
	case s.Failed():
		return "FAILED"
	case s.Skipped():
		return "skipped: " + s.reason
	}
	return "ok"
}

// A table is of texts, by row and column.
type table struct {
	corner        string
	rows, columns []string

	mu    sync.Mutex
	cells map[[2]string]string
}

func newTable(corner string, rows, columns []string) *table {
	return &table{corner: corner, rows: rows, columns: columns, cells: make(map[[2]string]string)}
}

func (t *table) set(row, column, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cells[[2]string{row, column}] = text
}

// String returns the table in Markdown.
func (t *table) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "| %s | %s |\n|%s\n", t.corner, strings.Join(t.columns, " | "), strings.Repeat("---|", len(t.columns)+1))
	for _, row := range t.rows {
		fmt.Fprintf(&b, "| %s |", row)
		for _, column := range t.columns {
			fmt.Fprintf(&b, " %s |", t.cells[[2]string{row, column}])
		}
		b.WriteString("\n")
	}
	return b.String()
}

// page is what the documentation has of the table.
func page(t *table) string {
	return fmt.Sprintf(`# Roots of trust and key stores

Every root works with every store. These tables are written by "make test-matrix", with
MATRIXFLAGS=-write-tables=../../docs/roots-and-stores.md, last on %s.

For each pair the gateway runs as a process with a configuration of its own, and a client, over mutual TLS, does this: create, describe,
list, generate and decrypt in branch and in direct mode, another context refused, encrypt (up to 100 kB), hmac, import (or its refusal,
501, by AWS KMS with one key for all), batches, a change of mode, delete. Then the gateway is started anew, and all that was sealed
opens again; with the store memory, the keys are gone, and that is what is tested.

%s`, time.Now().UTC().Format(time.DateOnly), t)
}

// faultsPage is what follows it.
func faultsPage(t *table) string {
	return fmt.Sprintf(`
## Denied, sealed, throttled, out of reach

A root or a store fails under a gateway that is in use, and is mended after some seconds. Clients are answered 503 with Retry-After,
never 403 or 404, and each such answer is in the audit log as "unavailable" and in keygate_requests_total. Times are since the fault, and
since the repair, with calls that have a second (timeout: 1s), cache.expiry: 300ms, branch.lifetime: 2s and branch.outage: 4s. A
refusal is no outage: branch keys end with their lifetime. No secret was found in any log or metric, and no gateway was restarted.

%s`, t)
}
