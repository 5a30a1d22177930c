package soak_test

import (
	"context"
	crypto "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// A load is what the clients of a gateway do: each operation is checked, and
// counted by its kind.
type load struct {
	g        *gateway
	took     func(time.Duration) // see door
	keys     []*key
	next     atomic.Uint64 // of names that are used once
	first    time.Time
	requests int // that the gateway has counted, at the end

	mu      sync.Mutex
	done    map[string]int // operations, by kind
	refused map[string]int // those that were answered "try again"
	slow    time.Duration  // how long the slowest took
	slowest string         // and what it was
	faults  []string       // wrong answers, the first ones
	wrong   int            // all of them
}

// A key lives as long as the load. What was sealed under it late is kept, and has
// to open.
type key struct {
	name, mode string

	mu     sync.Mutex
	sealed []sealed
	mac    []byte // of macMessage, once it is known
}

// A sealed is a ciphertext and what is in it.
type sealed struct{ context, plaintext, ciphertext []byte }

const (
	keysOfEachMode = 24
	sealedOfKey    = 24
	macMessage     = "a message"
	maxFaults      = 20 // that are reported
)

// newLoad makes the keys.
func newLoad(ctx context.Context, g *gateway) (*load, error) {
	l := &load{g: g, first: time.Now(), done: make(map[string]int), refused: make(map[string]int)}
	admin := g.as("admin", true)
	defer admin.close()
	for i := range keysOfEachMode {
		for _, mode := range []string{"branch", "direct"} {
			k := &key{name: fmt.Sprintf("soak-%s-%d", mode, i), mode: mode}
			if err := admin.call(ctx, "PUT", "/v1/key/create/"+k.name, map[string]string{"mode": mode}, nil); err != nil {
				return nil, fmt.Errorf("create %s: %w", k.name, err)
			}
			l.keys = append(l.keys, k)
		}
	}
	return l, nil
}

// run has clients work at a rate, in operations a second, until ctx ends.
func (l *load) run(ctx context.Context, rate float64, clients int) {
	var wait sync.WaitGroup
	for i := range clients {
		wait.Go(func() { l.client(ctx, i, time.Duration(float64(clients)/rate*float64(time.Second))) })
	}
	wait.Wait()
}

// A hand is a client at work.
type hand struct {
	*load
	*door
	rand *rand.Rand
}

// reconnect is after how many operations a client makes its connections anew.
const reconnect = 150

// client does one operation each interval, over connections that it closes now and
// then. It speaks HTTP/2 if its number is even.
func (l *load) client(ctx context.Context, number int, interval time.Duration) {
	identity := fmt.Sprintf("app-%d", number/2%4)
	h := hand{load: l, rand: rand.New(rand.NewPCG(uint64(number), uint64(time.Now().UnixNano())))}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n%reconnect == 0 {
			if h.door != nil {
				h.door.close()
			}
			h.door = l.g.as(identity, number%2 == 0)
			h.door.took = l.took
		}
		select {
		case <-ctx.Done():
			h.door.close()
			return
		case <-tick.C:
		}
		h.one(ctx)
	}
}

// An operation is something that clients do, so many times in the sum of all
// weights.
type operation struct {
	name   string
	weight int
	do     func(h hand, ctx context.Context) error
}

var operations = []operation{
	{"generate", 22, hand.generate},
	{"decrypt", 26, hand.decrypt},
	{"encrypt", 8, hand.encrypt},
	{"hmac", 8, hand.hmac},
	{"bulk decrypt", 3, hand.bulkDecrypt},
	{"batches", 3, hand.batches},
	{"describe", 6, hand.describe},
	{"list", 2, hand.list},
	{"create, use, delete", 2, hand.createAndDelete},
	{"import, use, delete", 1, hand.importAndDelete},
	{"no such key", 3, hand.noSuchKey},
	{"denied", 3, hand.denied},
	{"a stranger", 1, hand.stranger},
	{"malformed", 4, hand.malformed},
	{"not authentic", 3, hand.notAuthentic},
	{"cancelled", 5, hand.cancelled},
}

// one does one operation, to its end also if the load ends meanwhile.
func (h hand) one(ctx context.Context) {
	sum := 0
	for _, o := range operations {
		sum += o.weight
	}
	at := h.rand.IntN(sum)
	o := operations[sort.Search(len(operations), func(i int) bool {
		sum := 0
		for _, o := range operations[:i+1] {
			sum += o.weight
		}
		return sum > at
	})]
	begun := time.Now()
	err := o.do(h, context.WithoutCancel(ctx))
	h.count(o.name, time.Since(begun), err)
}

// count takes note of an operation.
func (l *load) count(name string, took time.Duration, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[name]++
	if took > l.slow {
		l.slow, l.slowest = took, fmt.Sprintf("%s, %v after the start", name, time.Since(l.first).Round(time.Second))
	}
	switch {
	case err == nil:
	case refused(err):
		l.refused[name+": "+err.Error()]++
	default:
		if l.wrong++; len(l.faults) < maxFaults {
			l.faults = append(l.faults, fmt.Sprintf("%s, %v after the start: %v", name, time.Since(l.first).Round(time.Millisecond), err))
		}
	}
}

// sum returns how many operations there were.
func (l *load) sum() (done, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range maps.Values(l.done) {
		done += n
	}
	for n := range maps.Values(l.refused) {
		refused += n
	}
	return done, refused
}

func (h hand) key() *key { return h.keys[h.rand.IntN(len(h.keys))] }

// name returns one that was never used.
func (h hand) name() string { return fmt.Sprintf("once-%d", h.next.Add(1)) }

func random(n int) []byte {
	b := make([]byte, n)
	crypto.Read(b)
	return b
}

func (k *key) keep(s sealed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sealed = append(k.sealed, s); len(k.sealed) > sealedOfKey {
		k.sealed = slices.Delete(k.sealed, 0, 1)
	}
}

// some returns up to n of what is kept, in a random order.
func (h hand) some(k *key, n int) []sealed {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := slices.Clone(k.sealed)
	h.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(n, len(all))]
}

var errWrong = errors.New("a wrong answer")

// isEqual returns an error unless what was opened is what was sealed.
func isEqual(got, want []byte) error {
	if string(got) != string(want) {
		return fmt.Errorf("%w: %d bytes, not the %d that were sealed", errWrong, len(got), len(want))
	}
	return nil
}

// reloads is the operator: each interval it changes the policies, rotates the audit
// log and sends SIGHUP, and each fourth time it does so with a configuration that
// is wrong. It returns how often each.
func (l *load) reloads(ctx context.Context, interval time.Duration, entries *auditLog) (good, bad int) {
	toggle := l.g.as("toggle", true)
	defer toggle.close()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return good, bad
		case <-tick.C:
		}
		var err error
		if n%4 == 0 {
			bad++
			err = l.g.badReload()
		} else {
			good++
			err = l.g.goodReload(toggle, good%2 == 0)
		}
		l.count("reload", 0, errors.Join(err, entries.rotated()))
	}
}

// badReload has the gateway read a configuration that is wrong: nothing changes.
func (g *gateway) badReload() error {
	return errors.Join(g.tryConfigure("polices: {}"), g.rotate(), g.reload(notReloaded))
}

// goodReload changes the policy of the identity "toggle", and sees that it is in
// force.
func (g *gateway) goodReload(toggle *door, list bool) error {
	if err := errors.Join(g.tryConfigure(policies(list)), g.rotate(), g.reload(reloaded)); err != nil {
		return err
	}
	may, mayNot := "describe/soak-direct-0", "list/soak-"
	if list {
		may, mayNot = mayNot, may
	}
	ctx := context.Background()
	if err := answers(toggle.call(ctx, "GET", "/v1/key/"+may, nil, nil), 200); err != nil {
		return fmt.Errorf("after a reload, %s: %w", may, err)
	}
	if err := answers(toggle.call(ctx, "GET", "/v1/key/"+mayNot, nil, nil), 403); err != nil {
		return fmt.Errorf("after a reload, %s: %w", mayNot, err)
	}
	return nil
}
