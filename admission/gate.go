// Package admission decides what is begun, so that what is begun is done in time:
// a Gate bounds the work that runs and serves clients in turn, a Rate bounds what
// one client may do, and a Listener bounds connections.
//
// Each costs next to nothing while there is room.
package admission

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// ErrBusy says that work was not begun, as it could not be in time. It may be
// tried again later.
var ErrBusy = errors.New("admission: too much work")

// Limits are the bounds of a Gate. All are required.
type Limits struct {
	Running int           // works at a time
	Share   int           // of one flow, of those
	Queue   int           // works of one flow that wait to begin
	Wait    time.Duration // how long each does
	// Work that runs for longer than Patience waits for something other than this
	// machine: a body, a root of trust. As long as others wait to begin, its place
	// is given to them: up to Parked works at a time have lost their place so, half
	// of them of one flow.
	Patience time.Duration
	Parked   int
}

// A Gate lets a bounded number of works run at a time. While there is a place,
// Enter and Leave are a few atomic operations, and take no lock; when there is
// none, flows take turns. It is safe for concurrent use.
type Gate struct {
	limits Limits
	places []atomic.Pointer[Ticket] // of the works that run; nil: free
	queued atomic.Int64             // works that wait
	parked atomic.Int64

	mu       sync.Mutex
	turns    list.List // of *Flow, each with waiting works; in front whose turn it is
	watching bool
}

// A Flow is works that share a fate, such as those of one client. The zero value
// is one without any. It belongs to one Gate and must not be copied.
type Flow struct {
	running atomic.Int64
	parked  atomic.Int64

	waiting list.List // of *Ticket, under Gate.mu
	turn    *list.Element
}

// A Ticket is one work, in one Gate, once: it must not be used again after Leave.
type Ticket struct {
	flow  *Flow
	since time.Time
	place int
	begin chan struct{} // closed when it may
	wait  *list.Element // under Gate.mu; nil: it does not wait
}

// NewGate returns a gate with those limits.
func NewGate(l Limits) *Gate {
	return &Gate{limits: l, places: make([]atomic.Pointer[Ticket], l.Running)}
}

// Enter returns nil when work of a flow may begin, and then Leave must follow. It
// returns ErrBusy if it may not begin in time, or ctx ended. now is the time. t is
// new, and stays with the gate until Leave.
func (g *Gate) Enter(ctx context.Context, f *Flow, t *Ticket, now time.Time) error {
	t.flow = f
	if g.queued.Load() == 0 && g.claim(t, now) == claimed {
		return nil
	}
	return g.queue(ctx, t)
}

// Leave says that the work is done.
func (g *Gate) Leave(t *Ticket) {
	if g.places[t.place].CompareAndSwap(t, nil) {
		t.flow.running.Add(-1)
	} else { // its place is another's
		t.flow.parked.Add(-1)
		g.parked.Add(-1)
	}
	if g.queued.Load() > 0 {
		g.mu.Lock()
		g.admit()
		g.mu.Unlock()
	}
}

// Load returns how many works run, how many wait to begin, and how many have begun
// and lost their place to others.
func (g *Gate) Load() (running, queued, parked int) {
	for i := range g.places {
		if g.places[i].Load() != nil {
			running++
		}
	}
	return running, int(g.queued.Load()), int(g.parked.Load())
}

type claim uint8

const (
	claimed claim = iota
	noShare       // the flow has all that it may
	noPlace       // there is none for anyone
)

// claim takes a place for t, if there is one. Where it begins to look is random
// enough that works seldom meet at the same.
func (g *Gate) claim(t *Ticket, now time.Time) claim {
	if t.flow.running.Add(1) > int64(g.limits.Share) {
		t.flow.running.Add(-1)
		return noShare
	}
	t.since = now
	n := len(g.places)
	first := now.Nanosecond() / 16 % n
	for i := range n {
		place := (first + i) % n
		if p := &g.places[place]; p.Load() == nil && p.CompareAndSwap(nil, t) {
			t.place = place
			return claimed
		}
	}
	t.flow.running.Add(-1)
	return noPlace
}

// queue waits for a place.
func (g *Gate) queue(ctx context.Context, t *Ticket) error {
	if !g.stand(t) {
		return ErrBusy
	}
	patience := time.NewTimer(g.limits.Wait)
	defer patience.Stop()
	select {
	case <-t.begin:
		return nil
	case <-patience.C:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.wait == nil {
		return nil // it got a place at the last moment
	}
	g.unqueue(t)
	return ErrBusy
}

// stand puts t at the end of its flow's queue. It reports false if that is full.
func (g *Gate) stand(t *Ticket) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := t.flow
	if f.waiting.Len() >= g.limits.Queue {
		return false
	}
	t.begin = make(chan struct{})
	t.wait = f.waiting.PushBack(t)
	if f.turn == nil {
		f.turn = g.turns.PushBack(f)
	}
	g.queued.Add(1)
	g.admit() // a place may have become free before it was known that t waits
	if !g.watching && g.turns.Len() > 0 {
		g.watching = true
		go g.watch()
	}
	return true
}

// unqueue takes t out of its flow's queue. The caller holds mu.
func (g *Gate) unqueue(t *Ticket) {
	f := t.flow
	f.waiting.Remove(t.wait)
	t.wait = nil
	g.queued.Add(-1)
	if f.waiting.Len() == 0 {
		g.turns.Remove(f.turn)
		f.turn = nil
	}
}

// admit gives free places to works that wait, to one of each flow in turn. The
// caller holds mu.
func (g *Gate) admit() {
	for without := 0; without < g.turns.Len(); {
		turn := g.turns.Front()
		t := turn.Value.(*Flow).waiting.Front().Value.(*Ticket)
		switch g.claim(t, time.Now()) {
		case noPlace:
			return
		case noShare:
			without++
			g.turns.MoveToBack(turn)
		case claimed:
			without = 0
			g.turns.MoveToBack(turn)
			g.unqueue(t)
			close(t.begin)
		}
	}
}

// watch runs as long as works wait, and takes places from those that do not use
// this machine.
func (g *Gate) watch() {
	tick := time.NewTicker(max(g.limits.Patience/2, time.Millisecond))
	defer tick.Stop()
	for now := range tick.C {
		if !g.waited() {
			return
		}
		g.park(now)
		g.mu.Lock()
		g.admit()
		g.mu.Unlock()
	}
}

// waited reports whether works wait: if none does, nothing is taken from those that
// run, and watch ends.
func (g *Gate) waited() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watching = g.turns.Len() > 0
	return g.watching
}

func (g *Gate) park(now time.Time) {
	for i := range g.places {
		t := g.places[i].Load()
		if t == nil || now.Sub(t.since) < g.limits.Patience {
			continue
		}
		f := t.flow
		if g.parked.Load() >= int64(g.limits.Parked) || f.parked.Load() >= int64(max(g.limits.Parked/2, 1)) {
			continue
		}
		if g.places[i].CompareAndSwap(t, nil) {
			f.parked.Add(1)
			g.parked.Add(1)
			f.running.Add(-1)
		}
	}
}
