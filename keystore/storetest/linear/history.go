package linear

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/keygate/keygate/keystore"
)

// What a history is.
const (
	clients = 5
	calls   = 12 // of each client
	names   = 3
	pause   = 8 * time.Millisecond   // at most, between two calls of a client
	hurry   = 60 * time.Millisecond  // at most, for the patience of who hangs up
	longest = 400 * time.Millisecond // of a fault
	settle  = 30 * time.Second       // for a store to answer when all is well again
)

// A recorder writes down what clients do at the same time.
type recorder struct {
	nodes []keystore.Store
	seed  uint64
	start time.Time

	mu      sync.Mutex
	history []porcupine.Operation
	seen    map[string][]sight // by name, in the order in which they were seen
	strange []string           // answers that no store may give
	writes  int
}

// A sight is a record that a client has read.
type sight struct {
	record string
	rev    keystore.Revision
}

// record runs a history of a seed and returns it. The seed gives the calls of each
// client and the faults; the order in which they meet is the machine's.
func record(ctx context.Context, nodes Nodes, seed uint64) *recorder {
	r := &recorder{nodes: nodes.Stores, seed: seed, start: time.Now(), seen: make(map[string][]sight)}
	var all, faults sync.WaitGroup
	for i, proxies := range nodes.Proxies {
		faults.Go(func() { Fail(rand.New(rand.NewPCG(seed, uint64(1000+i))), proxies, longest) })
	}
	for client := range clients {
		all.Go(func() { r.client(ctx, client, rand.New(rand.NewPCG(seed, uint64(client)))) })
	}
	all.Wait()
	faults.Wait()
	r.settle(ctx)
	r.finish()
	return r
}

// client makes the calls of one client, on any node each.
func (r *recorder) client(ctx context.Context, client int, rng *rand.Rand) {
	for range calls {
		time.Sleep(rand.N(pause))
		in := input{kind: choose(rng), name: r.name(rng.IntN(names)), node: rng.IntN(len(r.nodes))}
		rev := r.aim(&in, rng)
		// Some clients hang up before they have an answer.
		callCtx, cancel := ctx, context.CancelFunc(func() {})
		if rng.IntN(12) == 0 {
			callCtx, cancel = context.WithTimeout(ctx, time.Duration(rng.Int64N(int64(hurry))))
		}
		r.call(callCtx, client, in, rev)
		cancel()
	}
}

// name returns a name of this history: histories share a store.
func (r *recorder) name(i int) string { return fmt.Sprintf("h%x-%d", r.seed, i) }

func choose(rng *rand.Rand) kind {
	switch n := rng.IntN(100); {
	case n < 27:
		return create
	case n < 55:
		return get
	case n < 80:
		return update
	}
	return remove
}

// aim gives a write its record, and one at a revision the revision: of what was seen
// last, mostly, or of something before. If nothing was, the call becomes a get.
func (r *recorder) aim(in *input, rng *rand.Rand) keystore.Revision {
	r.mu.Lock()
	defer r.mu.Unlock()
	var at sight
	if in.kind == update || in.kind == remove {
		seen := r.seen[in.name]
		if len(seen) == 0 {
			in.kind = get
			return ""
		}
		at = seen[len(seen)-1]
		if rng.IntN(5) == 0 {
			at = seen[rng.IntN(len(seen))]
		}
		in.before = at.record
	}
	if in.kind == create || in.kind == update {
		r.writes++
		in.record = fmt.Sprintf("w%d", r.writes)
	}
	return at.rev
}

// call makes a call and writes it down. It reports false if the answer says nothing.
func (r *recorder) call(ctx context.Context, client int, in input, rev keystore.Revision) bool {
	out, began := output{}, time.Since(r.start)
	out.record, out.rev, out.err = do(ctx, r.nodes[in.node], in, rev)
	ended := time.Since(r.start)
	err, expected := sentinel(in.kind, out.err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !expected {
		r.strange = append(r.strange, describe(in, out))
	}
	out.err = err
	if !expected || in.kind == get && out.unknown() {
		return false
	}
	if in.kind == get && out.err == nil {
		r.seen[in.name] = append(r.seen[in.name], sight{out.record, out.rev})
	}
	r.history = append(r.history, porcupine.Operation{
		ClientId: client, Input: in, Call: began.Nanoseconds(), Output: out, Return: ended.Nanoseconds(),
	})
	return true
}

func do(ctx context.Context, s keystore.Store, in input, rev keystore.Revision) (record string, _ keystore.Revision, err error) {
	switch in.kind {
	case create:
		return "", "", s.Create(ctx, in.name, []byte(in.record))
	case update:
		return "", "", s.Update(ctx, in.name, []byte(in.record), rev)
	case remove:
		return "", "", s.Delete(ctx, in.name, rev)
	}
	raw, rev, err := s.Get(ctx, in.name)
	return string(raw), rev, err
}

// settle reads each name on each node when all is well again: the end of a history
// says what has become of its writes.
func (r *recorder) settle(ctx context.Context) {
	for node := range r.nodes {
		for i := range names {
			in, end := input{kind: get, name: r.name(i), node: node}, time.Now().Add(settle)
			for !r.call(ctx, clients+node, in, "") {
				if time.Now().After(end) {
					r.strange = append(r.strange, fmt.Sprintf("node %d: get %s: no answer in %v", node, in.name, settle))
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}

// finish has the calls of unknown outcome return when all others have.
func (r *recorder) finish() {
	end := time.Since(r.start).Nanoseconds() + 1
	for i, op := range r.history {
		if op.Output.(output).unknown() {
			r.history[i].Return = end
		}
	}
}
