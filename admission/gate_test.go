package admission_test

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keygate/keygate/admission"
)

const ms = time.Millisecond

// small is a gate of four places.
var small = admission.Limits{Running: 4, Share: 2, Queue: 8, Wait: 5 * ms, Patience: 100 * ms, Parked: 4}

// inBubble runs test with a clock of its own. What a gate does beside its works
// ends by itself when none waits.
func inBubble(t *testing.T, test func(*testing.T)) {
	synctest.Test(t, func(t *testing.T) {
		test(t)
		time.Sleep(2 * time.Hour)
	})
}

// enter begins work at once or fails the test.
func enter(t *testing.T, g *admission.Gate, f *admission.Flow) *admission.Ticket {
	t.Helper()
	ticket := new(admission.Ticket)
	if err := g.Enter(t.Context(), f, ticket, time.Now()); err != nil {
		t.Fatal(err)
	}
	return ticket
}

func busy(t *testing.T, g *admission.Gate, f *admission.Flow) {
	t.Helper()
	if err := g.Enter(t.Context(), f, new(admission.Ticket), time.Now()); !errors.Is(err, admission.ErrBusy) {
		t.Errorf("error is %v", err)
	}
}

func is(t *testing.T, g *admission.Gate, running, queued, parked int) {
	t.Helper()
	if r, q, p := g.Load(); r != running || q != queued || p != parked {
		t.Errorf("%d run, %d wait, %d are parked; not %d, %d, %d", r, q, p, running, queued, parked)
	}
}

func TestAFlowHasNoMoreThanItsShare(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := admission.NewGate(small)
		var flood, other admission.Flow
		first, second := enter(t, g, &flood), enter(t, g, &flood)
		begin := time.Now()
		busy(t, g, &flood)
		if waited := time.Since(begin); waited != 5*ms {
			t.Errorf("it waited %v", waited)
		}
		third := enter(t, g, &other)
		is(t, g, 3, 0, 0)
		g.Leave(first)
		g.Leave(enter(t, g, &flood))
		g.Leave(second)
		g.Leave(third)
		is(t, g, 0, 0, 0)
	})
}

func TestWhatWaitsBeginsWhenThereIsAPlace(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := admission.NewGate(small)
		var f admission.Flow
		first := enter(t, g, &f)
		enter(t, g, &f)
		time.AfterFunc(3*ms, func() { g.Leave(first) })
		begin := time.Now()
		enter(t, g, &f)
		if waited := time.Since(begin); waited != 3*ms {
			t.Errorf("it waited %v", waited)
		}
		is(t, g, 2, 0, 0)
	})
}

func TestFlowsTakeTurns(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		limits := small
		limits.Running, limits.Share, limits.Queue, limits.Wait = 1, 1, 100, time.Hour
		limits.Patience = time.Hour
		g := admission.NewGate(limits)
		flows := make([]admission.Flow, 3)
		var order []int // of the works that ended; one runs at a time
		work := func(flow int) {
			ticket := new(admission.Ticket)
			if err := g.Enter(t.Context(), &flows[flow], ticket, time.Now()); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(ms)
			order = append(order, flow)
			g.Leave(ticket)
		}
		holder := enter(t, g, &flows[0])
		for range 50 {
			go work(0)
		}
		synctest.Wait()
		go work(1)
		go work(2)
		synctest.Wait()
		g.Leave(holder)
		time.Sleep(time.Second)
		synctest.Wait()
		for _, flow := range []int{1, 2} {
			if n := indexOf(order, flow); n < 0 || n > 2 {
				t.Errorf("flow %d came as number %d", flow, n)
			}
		}
		if len(order) != 52 {
			t.Errorf("%d of 52 works were done", len(order))
		}
	})
}

func indexOf(order []int, flow int) int {
	for i, f := range order {
		if f == flow {
			return i
		}
	}
	return -1
}

func TestAQueueIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := admission.NewGate(small)
		var f admission.Flow
		enter(t, g, &f)
		enter(t, g, &f)
		for range 8 {
			go g.Enter(t.Context(), &f, new(admission.Ticket), time.Now())
		}
		synctest.Wait()
		is(t, g, 2, 8, 0)
		begin := time.Now()
		busy(t, g, &f)
		if waited := time.Since(begin); waited != 0 {
			t.Errorf("it waited %v", waited)
		}
		time.Sleep(10 * ms)
		is(t, g, 2, 0, 0)
	})
}

func TestWorkThatWaitsForOthersGivesItsPlaceOn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		limits := small
		limits.Patience, limits.Wait = 2*ms, 10*ms
		g := admission.NewGate(limits)
		var f, other admission.Flow
		first, second := enter(t, g, &f), enter(t, g, &f) // and they stay
		third, fourth := enter(t, g, &f), enter(t, g, &f)
		is(t, g, 2, 0, 2)
		busy(t, g, &f) // half of those that may be parked are this flow's
		synctest.Wait()
		g.Leave(enter(t, g, &other))
		g.Leave(first)
		g.Leave(second)
		is(t, g, 2, 0, 0)
		g.Leave(third)
		g.Leave(fourth)
		is(t, g, 0, 0, 0)
		g.Leave(enter(t, g, &f))
	})
}

func TestACancelledWorkLeavesTheQueue(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		g := admission.NewGate(small)
		var f admission.Flow
		enter(t, g, &f)
		enter(t, g, &f)
		ctx, cancel := context.WithTimeout(t.Context(), ms)
		defer cancel()
		begin := time.Now()
		if err := g.Enter(ctx, &f, new(admission.Ticket), begin); !errors.Is(err, admission.ErrBusy) {
			t.Errorf("error is %v", err)
		}
		if waited := time.Since(begin); waited != ms {
			t.Errorf("it waited %v", waited)
		}
		is(t, g, 2, 0, 0)
	})
}

// Under load from all sides no place is lost, none is given twice, and nobody is
// forgotten.
func TestPlacesAreNeitherLostNorDoubled(t *testing.T) {
	limits := admission.Limits{Running: 4, Share: 3, Queue: 64, Wait: time.Second, Patience: time.Hour, Parked: 4}
	g := admission.NewGate(limits)
	flows := make([]admission.Flow, 4)
	var running, most, done atomic.Int64
	finished := make(chan struct{})
	const workers, each = 32, 500
	for w := range workers {
		go func() {
			defer func() { finished <- struct{}{} }()
			for range each {
				ticket := new(admission.Ticket)
				if err := g.Enter(t.Context(), &flows[w%len(flows)], ticket, time.Now()); err != nil {
					t.Error(err)
					return
				}
				n := running.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				runtime.Gosched()
				running.Add(-1)
				done.Add(1)
				g.Leave(ticket)
			}
		}()
	}
	for range workers {
		<-finished
	}
	if most.Load() > 4 || done.Load() != workers*each {
		t.Errorf("%d works at a time, %d of %d done", most.Load(), done.Load(), workers*each)
	}
	is(t, g, 0, 0, 0)
	for range limits.Share { // and a flow still has its whole share
		enter(t, g, &flows[0])
	}
}

// What a request pays where there is room.
func BenchmarkEnterAndLeave(b *testing.B) {
	g := admission.NewGate(admission.Limits{Running: 32, Share: 16, Queue: 128, Wait: 5 * ms, Patience: 2 * ms, Parked: 4096})
	now := time.Now()
	b.RunParallel(func(pb *testing.PB) {
		var f admission.Flow
		var t admission.Ticket // safe here: nobody waits, so nothing else looks at it
		for pb.Next() {
			if g.Enter(b.Context(), &f, &t, now) != nil {
				b.Fail()
			}
			g.Leave(&t)
		}
	})
}
