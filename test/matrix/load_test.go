package matrix_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/kms"
)

const nodes = 3

// TestLoadOnTheRoot counts what three nodes ask of their root for many requests: a
// half of them make data keys, the others open these, on another node. It is about
// package kms, without TLS and HTTP, which ask nothing of a root. With KEYGATE_LONG=1
// there are 1,000,000 requests.
func TestLoadOnTheRoot(t *testing.T) {
	requests := servers.Long(30_000, 1_000_000)
	var table bytes.Buffer
	fmt.Fprintf(&table, "| root of trust | mode | keys | requests | calls of the root | of them | its own count | time |\n|%s\n", "---|---|---|---|---|---|---|---|")
	for _, of := range []struct {
		name string
		open func(*testing.T) cluster
	}{
		{"SoftHSM", softHSMCluster},
		{"local", localCluster},
		{"Vault transit, fake", fakeCluster},
		{"Vault transit, real core", realCluster},
		{"AWS KMS, moto", awsCluster},
	} {
		t.Run(of.name, func(t *testing.T) {
			for _, c := range []struct {
				mode           envelope.Mode
				keys, requests int
			}{{envelope.Branch, 1, requests}, {envelope.Branch, 50, requests}, {envelope.Direct, 1, 1200}} {
				table.WriteString(load(t, of.name, of.open(t), c.mode, c.keys, c.requests))
			}
		})
	}
	t.Logf("\n%s", &table)
}

func load(t *testing.T, name string, c cluster, mode envelope.Mode, keys, requests int) string {
	t.Helper()
	calls := new(tally)
	open := shared(t)
	all := newKMSs(t, c, open, mode, calls)
	var names []string
	for i := range keys {
		names = append(names, fmt.Sprintf("app-%d", i))
		if _, err := all[0].CreateKey(t.Context(), names[i], ""); err != nil {
			t.Fatal(err)
		}
	}
	// A new process of each, as the maker of a key has it in memory.
	all = newKMSs(t, c, open, mode, calls)
	before, text := 0, "none"
	if c.own != nil {
		before, _ = c.own()
	}
	calls.reset()
	begun := time.Now()
	var wait sync.WaitGroup
	for i := range nodes {
		wait.Go(func() { exchange(t, all[i], all[(i+1)%nodes], names, (requests/2+i)/nodes) })
	}
	wait.Wait()
	took := time.Since(begun)
	if c.own != nil {
		n, what := c.own()
		text = fmt.Sprintf("%d %s", n-before, what)
	}
	check(t, calls, mode, keys, requests)
	return fmt.Sprintf("| %s | %v | %d | %d | %d | %v | %s | %.1f s |\n", name, mode, keys, requests, calls.total(), calls, text, took.Seconds())
}

// check holds the calls to what docs/design.md says.
func check(t *testing.T, calls *tally, mode envelope.Mode, keys, requests int) {
	t.Helper()
	if mode == envelope.Direct {
		if n := calls.n[encrypts].Load() + calls.n[decrypts].Load(); n != int64(requests) {
			t.Errorf("direct mode: %d calls for %d requests", n, requests)
		}
		return
	}
	// Each node makes a branch key of each key and tries it, and opens those of one
	// other; it verifies the record, and reserves operations in it, which all nodes do at once
	// and so maybe again.
	pairs := int64(nodes * keys)
	if calls.n[encrypts].Load() != pairs || calls.n[decrypts].Load() != 2*pairs || calls.n[randoms].Load() != pairs {
		t.Errorf("branch mode, %d keys: %v", keys, calls)
	}
	if n := calls.n[macs].Load(); n < pairs || n > 8*pairs {
		t.Errorf("branch mode, %d keys: %d MACs", keys, n)
	}
	if calls.n[makes].Load() != 0 {
		t.Errorf("a request made a key: %v", calls)
	}
}

// exchange makes n data keys on one node and opens each on another.
func exchange(t *testing.T, from, to *kms.KMS, names []string, n int) {
	context := []byte("bucket/object")
	for i := range n {
		name := names[i%len(names)]
		plaintext, ciphertext, _, err := from.GenerateDataKey(t.Context(), name, context)
		if err != nil {
			t.Errorf("generate: %v", err)
			return
		}
		opened, _, err := to.Decrypt(t.Context(), name, ciphertext, context)
		if err != nil || !bytes.Equal(opened, plaintext) {
			t.Errorf("another node opens another data key, or: %v", err)
			return
		}
	}
}

// shared makes a directory of records, and returns what opens it for one node.
func shared(t *testing.T) func() keystore.Store {
	t.Helper()
	cfg := fs.Config{Path: filepath.Join(t.TempDir(), "keys")}
	if err := fs.Init(cfg, clusterID.String()); err != nil {
		t.Fatal(err)
	}
	return func() keystore.Store {
		s, err := fs.Open(cfg, clusterID.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
}

// newKMSs returns a KMS for each node.
func newKMSs(t *testing.T, c cluster, open func() keystore.Store, mode envelope.Mode, calls *tally) []*kms.KMS {
	t.Helper()
	var all []*kms.KMS
	for i := range nodes {
		k, err := kms.New(kms.Config{Cluster: clusterID, Mode: mode, Logger: slog.New(slog.DiscardHandler)}, countedRoot{c.roots[i], calls}, open())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, k)
	}
	return all
}

var clusterID = kms.ClusterID{0xc1, 0xc2}

// The methods of a root that are told apart.
const (
	makes = iota
	encrypts
	decrypts
	macs
	randoms
	others
	methods
)

// A tally counts the calls of the roots of all nodes.
type tally struct{ n [methods]atomic.Int64 }

func (t *tally) reset() {
	for i := range t.n {
		t.n[i].Store(0)
	}
}

func (t *tally) total() (n int64) {
	for i := range t.n {
		n += t.n[i].Load()
	}
	return n
}

// String names the methods as docs/design.md does.
func (t *tally) String() string {
	return fmt.Sprintf("Encrypt %d, Decrypt %d, MAC %d, Random %d, other %d",
		t.n[encrypts].Load(), t.n[decrypts].Load(), t.n[macs].Load(), t.n[randoms].Load(), t.n[makes].Load()+t.n[others].Load())
}

// A countedRoot counts the calls of a root.
type countedRoot struct {
	kms.Root
	calls *tally
}

func (r countedRoot) NewKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose) ([]byte, error) {
	r.calls.n[makes].Add(1)
	return r.Root.NewKey(ctx, id, purpose)
}

func (r countedRoot) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	r.calls.n[encrypts].Add(1)
	return r.Root.Encrypt(ctx, handle, plaintext, additionalData)
}

func (r countedRoot) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	r.calls.n[decrypts].Add(1)
	return r.Root.Decrypt(ctx, handle, ciphertext, additionalData)
}

func (r countedRoot) MAC(ctx context.Context, handle, message []byte) ([kms.MACSize]byte, error) {
	r.calls.n[macs].Add(1)
	return r.Root.MAC(ctx, handle, message)
}

func (r countedRoot) Random(ctx context.Context, b []byte) error {
	r.calls.n[randoms].Add(1)
	return r.Root.Random(ctx, b)
}

func (r countedRoot) DestroyKey(ctx context.Context, handle []byte) error {
	r.calls.n[others].Add(1)
	return r.Root.DestroyKey(ctx, handle)
}

func (r countedRoot) Status(ctx context.Context) error {
	r.calls.n[others].Add(1)
	return r.Root.Status(ctx)
}
