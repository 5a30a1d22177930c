package hsm_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The cells are shared out among processes, since a process has one SoftHSM, and
// most of a cell is a pause before the next try.
const (
	matrixParts = 6
	matrixEnv   = "KEYGATE_TEST_MATRIX" // "part file": which part, and where its findings go
)

// TestMatrixPart runs in a child process.
func TestMatrixPart(t *testing.T) {
	var part int
	var path string
	if n, _ := fmt.Sscan(os.Getenv(matrixEnv), &part, &path); n != 2 {
		t.Skip("a child of TestHS01_F4_TheFaultMatrix")
	}
	m := openMatrix(t)
	var all []finding
	for i, c := range cells() {
		if i%matrixParts != part {
			continue
		}
		all = append(all, m.runFairly(c))
	}
	for _, k := range m.keys {
		ok(t, m.opens(k))
	}
	// And in a root that has no memory.
	ok(t, m.root.Close())
	m.open()
	m.found = finding{}
	for _, k := range m.keys {
		ok(t, m.opens(k))
	}
	if m.found.Wrong != nil {
		t.Error(m.found.Wrong)
	}
	text, err := json.Marshal(all)
	ok(t, err)
	ok(t, os.WriteFile(path, text, 0o600))
	t.Logf("%d cells, %d keys and ciphertexts", len(all), len(m.keys))
}

func TestHS01_F4_TheFaultMatrix(t *testing.T) {
	begin := time.Now()
	found := inParts[finding](t, "TestMatrixPart", matrixEnv)
	took := time.Since(begin)
	all, tally, slowest := map[cell]finding{}, map[string]int{}, finding{}
	for _, f := range found {
		all[f.Cell] = f
		tally[f.Told]++
		if f.Recovery > slowest.Recovery {
			slowest = f
		}
		if f.Wrong != nil {
			t.Errorf("%v: %s", f.Cell, strings.Join(f.Wrong, "; "))
		}
	}
	if want := len(cells()); len(all) != want {
		t.Fatalf("%d cells were run, not %d", len(all), want)
	}
	t.Logf("%d cells in %v: %v; slowest recovery %v, of %v", len(all), took.Round(time.Second), tally, slowest.Recovery.Round(time.Millisecond), slowest.Cell)
	if allCells() {
		checkFaultsDoc(t, all, took)
	}
}

// inParts runs a test in matrixParts child processes, and returns what they found.
func inParts[T any](t *testing.T, test, env string) []T {
	t.Helper()
	dir := t.TempDir()
	parts := make([][]T, matrixParts)
	var wg sync.WaitGroup
	for part := range matrixParts {
		wg.Go(func() {
			path := filepath.Join(dir, fmt.Sprint(part))
			if out, err := child(test, env+"="+fmt.Sprint(part, " ", path)); err != nil {
				t.Errorf("part %d: %v: %s", part, err, out)
				return
			}
			text, err := os.ReadFile(path)
			if err == nil {
				err = json.Unmarshal(text, &parts[part])
			}
			if err != nil {
				t.Errorf("part %d: %v", part, err)
			}
		})
	}
	wg.Wait()
	return slices.Concat(parts...)
}

// child runs one test in a process of its own.
func child(test string, env ...string) ([]byte, error) {
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.v")
	cmd.Env = append(os.Environ(), env...)
	return cmd.CombinedOutput()
}
