package admission_test

import (
	"testing"
	"time"

	"github.com/keygate/keygate/admission"
)

var start = time.Unix(1_800_000_000, 0)

func TestARateAllowsItsBurstAndThenItsPace(t *testing.T) {
	l := admission.Limit{PerSecond: 10, Burst: 5}
	var r admission.Rate
	for i := range 5 {
		if wait := r.Take(l, start); wait != 0 {
			t.Errorf("number %d waits %v", i, wait)
		}
	}
	if wait := r.Take(l, start); wait != 100*ms {
		t.Errorf("the sixth waits %v", wait)
	}
	if wait := r.Take(l, start.Add(100*ms)); wait != 0 {
		t.Errorf("100 ms later it waits %v", wait)
	}
	if wait := r.Take(l, start.Add(100*ms)); wait != 100*ms {
		t.Errorf("the next waits %v", wait)
	}
	later := start.Add(time.Hour)
	for i := range 6 {
		if wait := r.Take(l, later); (wait == 0) != (i < 5) {
			t.Errorf("after a pause, number %d waits %v", i, wait)
		}
	}
}

func TestABurstIsWhatASecondAllows(t *testing.T) {
	for _, test := range []struct {
		perSecond float64
		burst     int
	}{{10, 10}, {0.1, 1}, {1, 1}} {
		var r admission.Rate
		n := 0
		for r.Take(admission.Limit{PerSecond: test.perSecond}, start) == 0 {
			n++
		}
		if n != test.burst {
			t.Errorf("%v a second: %d at once, not %d", test.perSecond, n, test.burst)
		}
	}
}

func TestNoLimitIsNone(t *testing.T) {
	var r admission.Rate
	r.Charge(admission.Limit{}, start, 1e9)
	for range 1000 {
		if wait := r.Take(admission.Limit{}, start); wait != 0 {
			t.Fatal(wait)
		}
	}
}

func TestAChargeIsMadeUpFor(t *testing.T) {
	l := admission.Limit{PerSecond: 10, Burst: 5}
	var r admission.Rate
	if r.Take(l, start) != 0 {
		t.Fatal("the first is refused")
	}
	r.Charge(l, start, 99)
	if wait := r.Take(l, start); wait != 9600*ms { // 100 are used, 4 may be
		t.Errorf("after 100, it waits %v", wait)
	}
	r.Charge(l, start, 1e9)
	if wait := r.Take(l, start); wait != time.Hour-400*ms {
		t.Errorf("after too many, it waits %v", wait)
	}
}

func TestPace(t *testing.T) {
	l := admission.Limit{PerSecond: 1000, Burst: 1}
	var r admission.Rate
	for i := range 10 {
		if wait := r.Pace(l, start, time.Second); wait != time.Duration(i)*ms {
			t.Errorf("number %d waits %v", i, wait)
		}
	}
	for range 5000 {
		r.Pace(l, start, time.Second)
	}
	if wait := r.Pace(l, start, time.Second); wait != time.Second {
		t.Errorf("at the most it waits %v", wait)
	}
	if wait := r.Pace(l, start.Add(2*time.Second), time.Second); wait != 0 {
		t.Errorf("2 s later it waits %v", wait)
	}
}

func BenchmarkTake(b *testing.B) {
	var r admission.Rate
	l := admission.Limit{PerSecond: 1e9, Burst: 1e9}
	for b.Loop() {
		r.Take(l, start)
	}
}
