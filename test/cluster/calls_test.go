package cluster_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/softhsm"
)

// operations are what a token does for keys.
var operations = []string{"C_Encrypt", "C_Decrypt", "C_Sign", "C_GenerateKey", "C_WrapKey", "C_UnwrapKey", "C_GenerateRandom"}

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
		for _, name := range operations {
			if n := after[i].root[name] - before[i].root[name]; n > 0 {
				total += n
				text = append(text, fmt.Sprintf("%s %d", name, n))
			}
		}
		t.Logf("node %d: %s; %v branch keys of others opened, %v records read", i, strings.Join(text, ", "),
			after[i].opens-before[i].opens, after[i].reads-before[i].reads)
	}
	t.Logf("%d operations of the root in all", total)
	// For each key: a random number, an encryption and its trial at each node, a
	// decryption of another node's branch key at each, and what the first use takes (its key is
	// unwrapped and checked, its record verified and written with a reservation).
	if most := uint64(keys * 3 * (4 + 5)); total > most {
		t.Errorf("%d operations of the root for %d requests, want %d at the most", total, requests, most)
	}
}

// LD-09: nothing is in memory at any node, each operation of the tokens takes 20 ms
// longer, and many clients ask each node for the same keys. Each key is loaded, and
// each branch key opened, once a node.
func TestColdStartHerd(t *testing.T) {
	const herd, clientsAtATime = 5, 256
	keys := servers.Long(200, 1000)
	counter := newShim(t)
	c := newCluster(t, 3, etcd, counter)
	clients := c.clients()
	all := make([]dek, keys)
	each(16, keys, func(i int) {
		key := fmt.Sprintf("app-%d", i)
		err := clients[i%3].CreateKey(t.Context(), key)
		if err == nil {
			all[i], err = generate(t.Context(), clients[i%3], key)
		}
		if err != nil {
			t.Errorf("%s: %v", key, err)
		}
	})
	for _, n := range c.nodes {
		n.end(syscall.SIGTERM)
	}
	for _, n := range c.nodes {
		n.start()
	}
	var before []map[string]uint64
	for i, n := range c.nodes {
		n.ready()
		before = append(before, counter.calls(t, i)) // a start tries the token
		counter.slow(t, i, 20*time.Millisecond)
	}
	began := time.Now()
	opened := openAll(t, clients, all, herd, clientsAtATime)
	t.Logf("%d of %d opened, %d keys, three nodes, in %v", opened, keys*3*herd, keys, time.Since(began).Round(10*time.Millisecond))
	for i := range c.nodes {
		after := counter.calls(t, i)
		loads, opens := after["C_UnwrapKey"]-before[i]["C_UnwrapKey"], after["C_Decrypt"]-before[i]["C_Decrypt"]
		if loads != uint64(keys) || opens < 2*uint64(keys) || opens > 2*uint64(keys)+slack {
			t.Errorf("node %d asked its token for %d C_UnwrapKey and %d C_Decrypt for %d keys, want 1 and 2 each", i, loads, opens, keys)
		}
	}
}

// A shim stands between the nodes and their PKCS#11 module, and counts.
type shim struct {
	module string // its own
	nodes  [3]*p11shim.Control
}

// newShim builds the shim.
func newShim(t *testing.T) *shim {
	t.Helper()
	real, err := softhsm.Module()
	if err != nil {
		skip(t, err)
	}
	dir := t.TempDir()
	s := &shim{}
	s.module, err = p11shim.Build(dir)
	check(t, err)
	for n := range s.nodes {
		s.nodes[n], err = p11shim.NewControl(filepath.Join(dir, fmt.Sprintf("control-%d", n)), real)
		check(t, err)
		t.Cleanup(func() { s.nodes[n].Close() })
	}
	return s
}

func (s *shim) env(node int) []string { return s.nodes[node].Env() }

// calls returns how often a node has asked its token for each operation, over all
// its starts.
func (s *shim) calls(t *testing.T, node int) map[string]uint64 {
	t.Helper()
	all, err := s.nodes[node].Tally()
	check(t, err)
	calls := map[string]uint64{}
	for _, name := range operations {
		calls[name] = all[name]
	}
	return calls
}

// slow makes each operation of a node's token take this much longer.
func (s *shim) slow(t *testing.T, node int, by time.Duration) {
	t.Helper()
	check(t, s.nodes[node].Slow(by, operations...))
}
