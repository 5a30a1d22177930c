package gateway

import (
	"runtime"
	"sync/atomic"
)

// Most of what a request costs is TLS and HTTP, before anything of the gateway sees
// it: hundreds of connections of one identity that are readable at the same time are
// hundreds of goroutines that all want a CPU now, in front of everyone else's. So a
// connection whose identity is known takes a turn when bytes have come, before they
// are decrypted, and gives it back when it reads again; package http does so as soon
// as a request's body is read. Of one identity so many are between the two at a time.
type turns chan struct{}

// turnsPerCPU is more than one identity needs to keep a CPU busy.
const turnsPerCPU = 8

func newTurns() turns { return make(turns, turnsPerCPU*runtime.GOMAXPROCS(0)) }

// A turning is a connection's part in turns.
type turning struct {
	of     atomic.Pointer[turns] // nil: its identity is not known yet
	held   atomic.Pointer[turns] // nil: it has no turn
	closed atomic.Bool
}

// belong has the connection take its turns among those of its identity.
func (t *turning) belong(of *turns) {
	if t.of.Load() != of {
		t.of.Store(of)
	}
}

// take waits for a turn.
func (t *turning) take() {
	of := t.of.Load()
	if of == nil {
		return
	}
	*of <- struct{}{}
	t.held.Store(of)
	if t.closed.Load() {
		t.give()
	}
}

// give gives the turn back, if there is one.
func (t *turning) give() {
	if of := t.held.Swap(nil); of != nil {
		<-*of
	}
}

// end gives the turn back for good.
func (t *turning) end() {
	t.closed.Store(true)
	t.give()
}
