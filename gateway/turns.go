package gateway

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
)

// Most of what a request costs is TLS and HTTP, before anything of the gateway sees
// it: hundreds of connections of one identity that are readable at the same time are
// hundreds of goroutines that all want a CPU now, in front of everyone else's. So a
// connection whose identity is known takes a turn when bytes have come, before they
// are decrypted, and gives it back when the request is known or the connection reads
// again. Of one identity so many are between the two at a time.
//
// A turn that is given back goes to one that waits by way of a pipe. Go's scheduler
// looks for what the network has only when nothing else is left to run, or every
// 10 ms: if connections that wait went on at once, those of other identities that have
// become readable would be found ten milliseconds later. The pipe is found together
// with them.

// turnsPerCPU is more than one identity needs to keep a CPU busy.
const turnsPerCPU = 8

// turns are those of one identity.
type turns struct {
	stile *turnstile

	mu      sync.Mutex
	free    int
	waiting []chan struct{} // in order; closed when it is their turn
	due     bool            // the turnstile knows that there are both
}

func (s *turnstile) turns() *turns {
	return &turns{stile: s, free: turnsPerCPU * runtime.GOMAXPROCS(0)}
}

// take waits for a turn.
func (t *turns) take() {
	t.mu.Lock()
	if t.free > 0 && len(t.waiting) == 0 {
		t.free--
		t.mu.Unlock()
		return
	}
	mine := make(chan struct{})
	t.waiting = append(t.waiting, mine)
	t.mu.Unlock()
	<-mine
}

func (t *turns) give() {
	t.mu.Lock()
	t.free++
	due := len(t.waiting) > 0 && !t.due
	t.due = t.due || due
	t.mu.Unlock()
	if due {
		t.stile.let(t)
	}
}

// pass gives the free turns to those that wait.
func (t *turns) pass() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.due = false
	n := min(t.free, len(t.waiting))
	for _, next := range t.waiting[:n] {
		close(next)
	}
	t.free -= n
	t.waiting = append(t.waiting[:0], t.waiting[n:]...)
}

// A turnstile passes turns on. The zero value does so at once.
type turnstile struct {
	pipe *os.File // to write to; nil: there is none

	mu     sync.Mutex
	due    []*turns
	called bool // a byte is in the pipe
}

// let has the turns of t passed on.
func (s *turnstile) let(t *turns) {
	s.mu.Lock()
	pipe, call := s.pipe, !s.called
	if pipe != nil {
		s.due, s.called = append(s.due, t), true
	}
	s.mu.Unlock()
	switch {
	case pipe == nil:
		t.pass()
	case call:
		if _, err := pipe.Write([]byte{0}); err != nil {
			s.pass()
		}
	}
}

func (s *turnstile) pass() {
	s.mu.Lock()
	due := s.due
	s.due, s.called = nil, false
	s.mu.Unlock()
	for _, t := range due {
		t.pass()
	}
}

// serve passes turns on by way of a pipe until stop is called.
func (s *turnstile) serve() (stop func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.pipe = w
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64)
		for {
			if _, err := r.Read(b); err != nil {
				return
			}
			s.pass()
		}
	}()
	return func() {
		s.mu.Lock()
		s.pipe = nil
		s.mu.Unlock()
		w.Close()
		<-done
		r.Close()
		s.pass()
	}, nil
}

// A turning is a connection's part in turns.
type turning struct {
	of     atomic.Pointer[turns] // nil: its identity is not known yet
	held   atomic.Pointer[turns] // nil: it has no turn
	busy   atomic.Bool           // with the one request that it can have at a time
	closed atomic.Bool
}

// belong has the connection take its turns among those of its identity.
func (t *turning) belong(of *turns) {
	if t.of.Load() != of {
		t.of.Store(of)
	}
}

// take waits for a turn. What comes over HTTP/1.1 while a request is in work is not
// looked at before it is done, which may take long (a log that is followed): a
// connection that kept a turn meanwhile would keep it from the others.
func (t *turning) take() {
	of := t.of.Load()
	if of == nil {
		return
	}
	of.take()
	t.held.Store(of)
	if t.closed.Load() || t.busy.Load() {
		t.give()
	}
}

// work has the connection keep no turn until done is called, if it has one request
// at a time.
func (t *turning) work(one bool) (done func()) {
	t.busy.Store(one)
	t.give() // it may wait from here on
	return func() { t.busy.Store(false) }
}

// give gives the turn back, if there is one.
func (t *turning) give() {
	if of := t.held.Swap(nil); of != nil {
		of.give()
	}
}

// end gives the turn back for good.
func (t *turning) end() {
	t.closed.Store(true)
	t.give()
}
