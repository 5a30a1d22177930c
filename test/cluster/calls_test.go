package cluster_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/softhsm"
)

// The layout of the control file of hsm/testdata/shim.c, and the operations of a
// token in it, by their place in CK_FUNCTION_LIST (PKCS#11 v2.40).
const (
	shimEntry   = 80 // bytes a function, of which the first 8 are the calls
	shimEntries = 68
)

var operations = map[string]int{
	"C_Encrypt": 30, "C_Decrypt": 34, "C_Sign": 43, "C_GenerateKey": 58, "C_WrapKey": 60, "C_UnwrapKey": 61, "C_GenerateRandom": 64,
}

// counted is how often a node called its root and its key store.
type counted struct {
	root         map[string]uint64
	reads, opens float64
}

// What three nodes ask of root and key store for many requests in branch mode, each
// key in use at every node. With KEYGATE_LONG set these are a million.
func TestCallsOfRootAndStore(t *testing.T) {
	const workers, keys = 24, 10
	requests := servers.Long(30_000, 1_000_000)
	counter := newShim(t)
	c := newCluster(t, 3, etcd, counter)
	clients := c.clients()
	for k := range keys {
		check(t, clients[0].CreateKey(t.Context(), fmt.Sprintf("app-%d", k)))
	}
	count := func() (all []counted) {
		for i, cl := range clients {
			all = append(all, counted{root: counter.calls(t, i), reads: metric(t, cl, "keygate_record_cache_misses_total"), opens: metric(t, cl, "keygate_branch_cache_misses_total")})
		}
		return all
	}
	before, began := count(), time.Now()
	// Made at one node, opened at the next: the worst of mixtures for the root.
	each(workers, requests/2, func(i int) {
		d, err := generate(t.Context(), clients[i%3], fmt.Sprintf("app-%d", i%keys))
		if err == nil {
			err = d.opens(t.Context(), clients[(i+1)%3])
		}
		if err != nil {
			t.Errorf("request %d: %v", i, err)
		}
	})
	took := time.Since(began)
	after := count()
	t.Logf("%d requests, %d keys, three nodes, %v", requests, keys, took.Round(time.Second))
	var total uint64
	for i := range clients {
		var text []string
		for name := range operations {
			if n := after[i].root[name] - before[i].root[name]; n > 0 {
				total += n
				text = append(text, fmt.Sprintf("%s %d", name, n))
			}
		}
		t.Logf("node %d: %s; %v branch keys of others opened, %v records read", i, strings.Join(text, ", "),
			after[i].opens-before[i].opens, after[i].reads-before[i].reads)
	}
	t.Logf("%d operations of the root in all", total)
	// For each key: a random number and an encryption at each node, a decryption of
	// another node's branch key at each, and what the first use takes (its key is
	// unwrapped and checked, its record verified and written with a reservation).
	if most := uint64(keys * 3 * (3 + 5)); total > most {
		t.Errorf("%d operations of the root for %d requests, want %d at the most", total, requests, most)
	}
}

// A shim stands between the nodes and their PKCS#11 module, and counts: see
// hsm/testdata/shim.c.
type shim struct {
	dir    string
	module string // its own
	real   string
}

// newShim builds the shim.
func newShim(t *testing.T) *shim {
	t.Helper()
	real, err := softhsm.Module()
	if err != nil {
		skip(t, err)
	}
	s := &shim{dir: t.TempDir(), real: real}
	s.module = filepath.Join(s.dir, "shim.so")
	out, err := exec.Command("cc", "-O2", "-shared", "-fPIC", "-o", s.module, "../../hsm/testdata/shim.c", "-ldl").CombinedOutput()
	if err != nil {
		t.Fatalf("shim: %v\n%s", err, out)
	}
	for n := range 3 {
		check(t, os.WriteFile(s.control(n), make([]byte, shimEntry*shimEntries), 0o600))
	}
	return s
}

func (s *shim) control(node int) string { return filepath.Join(s.dir, fmt.Sprintf("control-%d", node)) }

func (s *shim) env(node int) []string {
	return []string{"SHIM_MODULE=" + s.real, "SHIM_CONTROL=" + s.control(node)}
}

// calls returns how often a node has asked its token for each operation, over all
// its starts.
func (s *shim) calls(t *testing.T, node int) map[string]uint64 {
	t.Helper()
	b, err := os.ReadFile(s.control(node))
	check(t, err)
	calls := map[string]uint64{}
	for name, at := range operations {
		calls[name] = binary.NativeEndian.Uint64(b[at*shimEntry:])
	}
	return calls
}
