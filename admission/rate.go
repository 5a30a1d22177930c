package admission

import (
	"math"
	"sync/atomic"
	"time"
)

// A Limit is how much may be done: so much a second, and so much at once after a
// pause. The zero value is no limit.
type Limit struct {
	PerSecond float64
	Burst     int // zero: what PerSecond allows in a second, at least 1
}

// interval is the time that one takes at the limit.
func (l Limit) interval() time.Duration { return time.Duration(float64(time.Second) / l.PerSecond) }

func (l Limit) burst() float64 {
	if l.Burst > 0 {
		return float64(l.Burst)
	}
	return math.Max(l.PerSecond, 1)
}

// slack is how far the work that was done may be ahead of the limit for another
// to be done.
func (l Limit) slack() time.Duration {
	return time.Duration((l.burst() - 1) * float64(l.interval()))
}

// A Rate is what was done of late, in one word: the time up to which the limit is
// used (the "generic cell rate algorithm" of ITU-T I.371). The zero value is
// nothing. It is safe for concurrent use.
type Rate struct{ used atomic.Int64 } // in nanoseconds since 1970

// Take takes one, or returns after what time there is one to take; more than 0.
func (r *Rate) Take(l Limit, now time.Time) (wait time.Duration) {
	if l.PerSecond == 0 {
		return 0
	}
	for {
		used := r.used.Load()
		from := max(used, now.UnixNano())
		if wait := time.Duration(from-now.UnixNano()) - l.slack(); wait > 0 {
			return wait
		}
		if r.used.CompareAndSwap(used, from+int64(l.interval())) {
			return 0
		}
	}
}

// maxDebt bounds what Charge can run up.
const maxDebt = time.Hour

// Charge takes n more, whether or not they are there: those that come after wait
// until they are made up for, an hour at most.
func (r *Rate) Charge(l Limit, now time.Time, n int) {
	if l.PerSecond == 0 || n <= 0 {
		return
	}
	for {
		used := r.used.Load()
		from := max(used, now.UnixNano())
		next := min(float64(from)+float64(n)*float64(l.interval()), float64(now.Add(maxDebt).UnixNano()))
		if r.used.CompareAndSwap(used, max(int64(next), used)) {
			return
		}
	}
}

// Pace takes one, and returns how long to wait so that the limit is kept. If that
// is longer than most it takes none, and returns most.
func (r *Rate) Pace(l Limit, now time.Time, most time.Duration) (wait time.Duration) {
	for {
		used := r.used.Load()
		from := max(used, now.UnixNano())
		wait := max(time.Duration(from-now.UnixNano())-l.slack(), 0)
		if wait >= most {
			return most
		}
		if r.used.CompareAndSwap(used, from+int64(l.interval())) {
			return wait
		}
	}
}
