package gateway

import (
	"math"
	"net/http"
	"runtime"
	runtimemetrics "runtime/metrics"
	"sync/atomic"
	"syscall"
	"time"
)

// pressure keeps the run queue of this process short for all but who makes it long.
//
// What an identity costs is mostly spent before a request is known to be its: in
// the network, TLS and HTTP. So places for requests do not bound it; the number of
// its connections that are read from does. While requests wait for a CPU, the
// connections of identities with more than their share rest after each answer, for
// as long as it takes to make the wait short again. Nothing is refused by it, and a
// client that is alone is not slowed. Where it is other processes that make the
// CPU short, which shows in how little this one gets, nobody is: it would not help.
type pressure struct {
	rest atomic.Int64 // of connections of heavy callers, after each request, in nanoseconds
	look int          // ticks to the next look at who is heavy
}

const (
	pressureTick = 10 * time.Millisecond
	pressureLook = 10 // ticks
	// pressureTarget is the wait for a CPU, as a median, above which there is
	// pressure. It is what some 60 requests take on two CPUs.
	pressureTarget = 500 * time.Microsecond
	// pressureCPU is the part of its CPUs that this process uses at the least where
	// it is the cause.
	pressureCPU = 0.5
	// A rest grows and shrinks by a part at each tick: tenfold in 0.25 s, to a tenth
	// in 0.75 s.
	firstRest = time.Millisecond
	mostRest  = 250 * time.Millisecond
	mostLate  = 10 * time.Millisecond // of an answer over HTTP/2
	restGrows = 1.1
	restEnds  = 0.97
)

// step takes note of how long work waited for a CPU of late, and what part of its
// CPUs this process has used, and reports whether there is pressure.
func (p *pressure) step(wait time.Duration, used float64) bool {
	rest := time.Duration(p.rest.Load())
	if wait > pressureTarget && used > pressureCPU {
		rest = min(max(time.Duration(float64(rest)*restGrows), firstRest), mostRest)
	} else if rest = time.Duration(float64(rest) * restEnds); rest < firstRest/2 {
		rest = 0
	}
	p.rest.Store(int64(rest))
	return rest > 0
}

// share says who is heavy: who has sent more than half as much again as all would
// have on an average, of those who have sent anything since the last look.
func share(all []*caller) {
	var sum, active int64
	sent := make([]int64, len(all))
	for i, c := range all {
		n := c.sent.Load()
		sent[i], c.looked = n-c.looked, n
		if sent[i] > 0 {
			sum += sent[i]
			active++
		}
	}
	for i, c := range all {
		c.heavy.Store(active > 1 && 2*sent[i]*active > 3*sum)
	}
}

// yield lets the connection of a heavy caller rest, if there is pressure. Over
// HTTP/1.1 it has its answer before, over HTTP/2, where other requests of the
// connection go on, after.
func (s *Server) yield(w http.ResponseWriter, r *request) {
	rest := time.Duration(s.pressure.rest.Load())
	if rest == 0 || !r.caller.heavy.Load() {
		return
	}
	if r.http.ProtoMajor >= 2 {
		s.rest(r.http.Context(), min(rest, mostLate))
	} else if http.NewResponseController(w).Flush() == nil {
		s.rest(r.http.Context(), rest)
	}
}

// watchPressure steps until done is closed.
func (s *Server) watchPressure(done <-chan struct{}) {
	tick := time.NewTicker(pressureTick)
	defer tick.Stop()
	var waits cpuWaits
	var used cpuUse
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if !s.pressure.step(waits.median(), used.share()) {
			s.pressure.look = 0
			continue
		}
		if s.pressure.look--; s.pressure.look < 0 {
			s.pressure.look = pressureLook
			share(s.callers.list())
		}
	}
}

// A cpuUse is what part of its CPUs this process has used of late. The zero value
// is none.
type cpuUse struct {
	at   time.Time
	cpu  time.Duration
	mean float64 // over some 8 calls of share
}

// share returns the part, up to now, from 0 to 1.
func (c *cpuUse) share() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	now, cpu := time.Now(), time.Duration(u.Utime.Nano()+u.Stime.Nano())
	if passed := now.Sub(c.at); !c.at.IsZero() && passed > 0 {
		part := float64(cpu-c.cpu) / float64(passed) / float64(runtime.GOMAXPROCS(0))
		c.mean += (part - c.mean) / 8
	}
	c.at, c.cpu = now, cpu
	return c.mean
}

// cpuWaits are the times that goroutines waited for a CPU, as package runtime
// samples them.
type cpuWaits struct {
	sample [1]runtimemetrics.Sample
	before []uint64
}

// median returns the median of those since it was called before; 0: there were
// none.
func (c *cpuWaits) median() time.Duration {
	c.sample[0].Name = "/sched/latencies:seconds"
	runtimemetrics.Read(c.sample[:])
	if c.sample[0].Value.Kind() != runtimemetrics.KindFloat64Histogram {
		return 0
	}
	h := c.sample[0].Value.Float64Histogram()
	if c.before == nil {
		c.before = make([]uint64, len(h.Counts))
	}
	var sum uint64
	for i, n := range h.Counts {
		c.before[i], sum = n-c.before[i], sum+n-c.before[i]
	}
	median := medianOf(c.before, h.Buckets, sum)
	copy(c.before, h.Counts)
	return median
}

// medianOf returns the upper bound of the bucket with the median of n values.
func medianOf(counts []uint64, bounds []float64, n uint64) time.Duration {
	var below uint64
	for i, count := range counts {
		if below += count; n > 0 && 2*below >= n {
			return time.Duration(min(bounds[i+1], math.MaxInt32) * float64(time.Second))
		}
	}
	return 0
}
