package gateway

import (
	"math"
	"testing"
	"time"
)

func TestPressureGrowsAndEnds(t *testing.T) {
	var p pressure
	for range 100 {
		if p.step(pressureTarget, 1) || p.step(time.Second, pressureCPU) {
			t.Fatal("a short wait is pressure, or one that others cause")
		}
	}
	steps := 0
	for ; time.Duration(p.rest.Load()) < 16*time.Millisecond; steps++ { // 500 connections, 30,000 requests a second
		if !p.step(time.Millisecond, 1) {
			t.Fatal("a long wait is no pressure")
		}
	}
	if took := time.Duration(steps) * pressureTick; took > 500*time.Millisecond {
		t.Errorf("it takes %v", took)
	}
	for range 1000 {
		p.step(time.Hour, 1)
	}
	if rest := time.Duration(p.rest.Load()); rest != mostRest {
		t.Errorf("at the most it is %v", rest)
	}
	for steps = 0; p.step(0, 1); steps++ {
	}
	if took := time.Duration(steps) * pressureTick; took > 2500*time.Millisecond || p.rest.Load() != 0 {
		t.Errorf("from the most it ends after %v", took)
	}
}

func TestWhoIsHeavy(t *testing.T) {
	for name, test := range map[string]struct {
		sent  []int64
		heavy []bool
	}{
		"a flood beside others": {[]int64{30_000, 50, 50, 50}, []bool{true, false, false, false}},
		"a flood beside one":    {[]int64{30_000, 50}, []bool{true, false}},
		"one alone":             {[]int64{30_000, 0, 0}, []bool{false, false, false}},
		"all the same":          {[]int64{100, 100, 100}, []bool{false, false, false}},
		"two floods":            {[]int64{1000, 1000, 10, 10}, []bool{true, true, false, false}},
		"nothing":               {[]int64{0, 0}, []bool{false, false}},
	} {
		all := make([]*caller, len(test.sent))
		for i := range all {
			all[i] = new(caller)
			all[i].sent.Store(7)
		}
		share(all) // what came before does not count
		for i, n := range test.sent {
			all[i].sent.Add(n)
		}
		share(all)
		for i, c := range all {
			if c.heavy.Load() != test.heavy[i] {
				t.Errorf("%s: heavy is %t of number %d", name, c.heavy.Load(), i)
			}
		}
	}
}

func TestTheUseOfCPUs(t *testing.T) {
	var used cpuUse
	if got := used.share(); got != 0 {
		t.Errorf("at first it is %v", got)
	}
	for range 20 {
		time.Sleep(time.Millisecond)
		if got := used.share(); got < 0 || got > 1.5 { // the kernel counts in steps
			t.Errorf("it is %v", got)
		}
	}
}

func TestTheMedianOfWaits(t *testing.T) {
	bounds := []float64{math.Inf(-1), 0, 1e-3, 2e-3, math.Inf(1)}
	for _, test := range []struct {
		counts []uint64
		want   time.Duration
	}{
		{[]uint64{0, 0, 0, 0}, 0},
		{[]uint64{0, 1, 0, 0}, time.Millisecond},
		{[]uint64{0, 2, 1, 2}, 2 * time.Millisecond},
		{[]uint64{0, 0, 0, 1}, math.MaxInt32 * time.Second},
	} {
		var n uint64
		for _, count := range test.counts {
			n += count
		}
		if got := medianOf(test.counts, bounds, n); got != test.want {
			t.Errorf("%v: the median is %v, not %v", test.counts, got, test.want)
		}
	}
	var waits cpuWaits
	waits.median()
	done := make(chan struct{})
	for range 1000 {
		go func() { done <- struct{}{} }()
		<-done
	}
	if got := waits.median(); got <= 0 || got > time.Second {
		t.Errorf("the runtime tells of %v", got)
	}
}
