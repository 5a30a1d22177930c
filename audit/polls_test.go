package audit_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keygate/keygate/audit"
)

// counted returns the lines of a log and how many requests they stand for, by
// operation.
func counted(t *testing.T, file string) (lines, requests map[string]int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines, requests = make(map[string]int), make(map[string]int)
	for line := range bytes.Lines(b) {
		var e struct {
			Operation, RequestID string
			Skipped              int
		}
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		lines[e.Operation]++
		requests[e.Operation] += e.Skipped
		if bytes.Contains(line, []byte(`"request_id":"r`)) {
			requests[e.Operation]++
		}
	}
	return lines, requests
}

func poll(operation string) *audit.Entry {
	e := entry(1)
	e.Operation, e.Poll = operation, true
	return e
}

func TestSampledPollsAreCountedToTheLast(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, audit.Config{File: file, Polls: audit.Polls{Sample: 10}})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for range 49 {
				if err := l.Write(poll("describe")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for range 3 {
		for _, outcome := range []audit.Outcome{audit.Denied, audit.Error, audit.Unavailable} {
			e := poll("ready")
			e.Outcome = outcome
			l.Write(e)
		}
		l.Write(entry(2)) // no poll
	}
	if got := l.Stats().Skipped; got != 245-25 {
		t.Errorf("%d were left out", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lines, requests := counted(t, file)
	if lines["describe"] != 26 || requests["describe"] != 245 { // 25 and, at the end, how many came after
		t.Errorf("%d lines stand for %d polls of 245", lines["describe"], requests["describe"])
	}
	if lines["ready"] != 9 || lines["generate"] != 3 {
		t.Errorf("%d failures of 9 and %d other requests of 3 are there", lines["ready"], lines["generate"])
	}
}

func TestAllPollsAreWrittenByDefault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, audit.Config{File: file})
	for range 20 {
		if err := l.Write(poll("status")); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if lines, requests := counted(t, file); lines["status"] != 20 || requests["status"] != 20 {
		t.Errorf("%d lines for 20 polls", lines["status"])
	}
}
