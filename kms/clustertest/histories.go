package clustertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore/storetest/linear"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/local"
)

// What the histories of a cluster are.
const (
	clients     = 12                      // most wait for a network that fails
	keys        = 12                      // each has a history
	lasts       = 12 * time.Second        // of which the last bound is after the deletes
	pause       = 30 * time.Millisecond   // at most, between two calls of a client
	longest     = 1500 * time.Millisecond // of a fault
	deletesFrom = 3 * time.Second
	deletesTo   = lasts - bound - time.Second
)

// A call is one that a client has made, and what came of it.
type call struct {
	op           string
	node         int
	began, ended time.Duration
	err          error
	id           kms.KeyID // zero: not told
	enabled      bool      // what a describe has told
	mode         envelope.Mode
	wrong        bool // a decrypt returned something else than was encrypted
}

func (c call) String() string {
	return fmt.Sprintf("%v to %v node %d %s: key %v, mode %v, %v", c.began, c.ended, c.node, c.op, c.id, c.mode, c.err)
}

// A ciphertext is one that was acknowledged.
type ciphertext struct{ plaintext, text []byte }

// A history is all that was done with one key.
type history struct {
	name string

	mu     sync.Mutex
	calls  []call
	sealed []ciphertext
}

// A cluster is three nodes and what clients do on them.
type cluster struct {
	nodes     []*kms.KMS
	proxies   [][]*netfault.Proxy
	start     time.Time
	histories []*history
}

// testHistories has clients create, describe, use and delete keys on random nodes
// while the network of each fails. A node serves from memory what it has read up to
// bound ago, so that the calls have no order as those of a store do; what has to hold
// of each key all the same is in history.check.
func testHistories(t *testing.T, h Harness) {
	seed := linear.Seed(t)
	rounds := servers.Long(1, 8)
	total := 0
	for round := range rounds {
		c := newCluster(t, h)
		c.run(t.Context(), seed+uint64(round))
		for _, h := range c.histories {
			h.check(t)
			total += len(h.calls)
		}
	}
	t.Logf("%d histories of keys, %d calls, KEYGATE_SEED=%d", rounds*keys, total, seed)
}

func newCluster(t *testing.T, h Harness) *cluster {
	t.Helper()
	cfg := local.Config{File: filepath.Join(t.TempDir(), "root.key")}
	_, err := local.Init(cfg)
	must(t, "init the root", err)
	root, err := local.Open(cfg)
	must(t, "open the root", err)
	t.Cleanup(func() { root.Close() })
	h.Fresh(t)
	c := &cluster{}
	for range 3 {
		s, proxies := h.Network(t)
		c.nodes, c.proxies = append(c.nodes, node(t, root, s)), append(c.proxies, proxies)
	}
	for i := range keys {
		c.histories = append(c.histories, &history{name: fmt.Sprintf("app-%d", i)})
	}
	c.start = time.Now()
	return c
}

func (c *cluster) run(ctx context.Context, seed uint64) {
	var all sync.WaitGroup
	for i, proxies := range c.proxies {
		all.Go(func() {
			for rng := rand.New(rand.NewPCG(seed, uint64(1000+i))); time.Since(c.start) < lasts; {
				linear.Fail(rng, proxies, longest)
				time.Sleep(time.Duration(rng.Int64N(int64(longest))))
			}
		})
	}
	for client := range clients {
		all.Go(func() {
			for rng := rand.New(rand.NewPCG(seed, uint64(client))); time.Since(c.start) < lasts; {
				time.Sleep(time.Duration(rng.Int64N(int64(pause))))
				c.call(ctx, rng, c.histories[rng.IntN(keys)], rng.IntN(len(c.nodes)))
			}
		})
	}
	all.Wait()
	c.settle(ctx)
}

// settle describes each key, and opens all that was sealed with it, on each node when
// all is well again.
func (c *cluster) settle(ctx context.Context) {
	for node := range c.nodes {
		for _, h := range c.histories {
			for end := time.Now().Add(2 * bound); time.Now().Before(end); {
				last := c.do(ctx, h, "describe", node, ciphertext{})
				if !errors.Is(last.err, kms.ErrUnavailable) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			for _, sealed := range h.sealed {
				c.do(ctx, h, "decrypt", node, sealed)
			}
		}
	}
}

// call makes one call of a client. Two keys in three are never deleted.
func (c *cluster) call(ctx context.Context, rng *rand.Rand, h *history, node int) {
	at := time.Since(c.start)
	n := rng.IntN(100)
	switch {
	case n < 15:
		c.do(ctx, h, "create", node, ciphertext{})
	case n < 25:
		c.do(ctx, h, "describe", node, ciphertext{})
	case n < 30:
		c.do(ctx, h, "branch", node, ciphertext{})
	case n < 35:
		c.do(ctx, h, "direct", node, ciphertext{})
	case n < 40 && h.name[len(h.name)-1]%3 == 0 && deletesFrom < at && at < deletesTo:
		c.do(ctx, h, "delete", node, ciphertext{})
	case n < 70:
		c.do(ctx, h, "generate", node, ciphertext{})
	default:
		if sealed, ok := h.some(rng); ok {
			c.do(ctx, h, "decrypt", node, sealed)
		}
	}
}

// some returns a ciphertext that was acknowledged, if there is one.
func (h *history) some(rng *rand.Rand) (ciphertext, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.sealed) == 0 {
		return ciphertext{}, false
	}
	return h.sealed[rng.IntN(len(h.sealed))], true
}

// do makes a call and writes it down.
func (c *cluster) do(ctx context.Context, h *history, op string, node int, open ciphertext) call {
	done, k := call{op: op, node: node, began: time.Since(c.start)}, c.nodes[node]
	var info kms.Info
	var use kms.Use
	var made ciphertext
	switch op {
	case "create":
		info, done.err = k.CreateKey(ctx, h.name, "")
	case "describe":
		info, done.err = k.DescribeKey(ctx, h.name)
		done.enabled = info.State == kms.Enabled
	case "branch":
		info, done.err = k.SetMode(ctx, h.name, envelope.Branch)
	case "direct":
		info, done.err = k.SetMode(ctx, h.name, envelope.Direct)
	case "delete":
		info, done.err = k.DeleteKey(ctx, h.name)
	case "generate":
		made.plaintext, made.text, use, done.err = k.GenerateDataKey(ctx, h.name, []byte(h.name))
	case "decrypt":
		var plaintext []byte
		plaintext, use, done.err = k.Decrypt(ctx, h.name, open.text, []byte(h.name))
		done.wrong = done.err == nil && !bytes.Equal(plaintext, open.plaintext)
	}
	done.ended = time.Since(c.start)
	if done.id, done.mode = info.ID, info.Mode; use.KeyID != (kms.KeyID{}) {
		done.id, done.mode = use.KeyID, use.Mode
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, done)
	if made.text != nil {
		h.sealed = append(h.sealed, made)
	}
	return done
}
