package main

import (
	"crypto/tls"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

func certificatesOf(c ...tls.Certificate) []tls.Certificate { return c }

func repeat(r *request, n int) []*request { return slices.Repeat([]*request{r}, n) }

func TestAnOpenLoopKeepsItsRate(t *testing.T) {
	var n atomic.Int64
	at := serve(t, func(http.ResponseWriter, *http.Request) { n.Add(1) })
	const rate, long = 500, 600 * time.Millisecond
	s, err := load{target: at, protocol: http1, conns: 5, streams: 1, next: always(newGet("/")), rate: rate}.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(long)
	s.stop()
	due := int64(rate * time.Since(s.begin).Seconds())
	if got := n.Load(); got > due+5 || got < due/2 { // less on a machine that has no time
		t.Errorf("%d requests, %d were due", got, due)
	}
}

// A server that stands still for a moment delays also those requests that were
// due meanwhile: an open loop must not leave them out.
func TestAnOpenLoopCountsTheWaitForAWorker(t *testing.T) {
	var n atomic.Int64
	at := serve(t, func(http.ResponseWriter, *http.Request) {
		if n.Add(1) == 1 {
			time.Sleep(300 * time.Millisecond)
		}
	})
	s, err := load{target: at, protocol: http1, conns: 1, streams: 1, next: once(repeat(newGet("/"), 20)), rate: 100}.start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-s.ended
	// Due every 10 ms, so the second was sent 290 ms late, the third 280 ms ...
	if f := s.figures(0, time.Hour); f.p50 < 150*time.Millisecond || f.p99 < 300*time.Millisecond {
		t.Errorf("p50 %v, p99 %v", f.p50, f.p99)
	}
}

func TestFiguresCountWhatEndedInTime(t *testing.T) {
	ms := time.Millisecond
	s := &shot{samples: []sample{
		{due: 0, took: 50 * ms, status: 200},                    // before
		{due: 90 * ms, took: 20 * ms, status: 200},              // in
		{due: 100 * ms, took: 40 * ms, status: 200},             // in
		{due: 110 * ms, took: ms, status: 503, retry: true},     // refused
		{due: 120 * ms, took: 3 * ms, status: 429},              // refused, without a word of when
		{due: 130 * ms, took: ms, status: 500},                  // other
		{due: 140 * ms, late: 50 * ms, took: ms, status: 0},     // none
		{due: 199 * ms, took: 30 * ms, status: 200},             // after
		{due: 150 * ms, late: 60 * ms, took: 1, status: 200},    // after, as it was late
		{due: 1000 * ms, took: 30 * ms, status: 503, late: 100}, // after
	}}
	f := s.figures(100*ms, 200*ms)
	if f.rate != 20 || f.refused != 20 || f.noRetry != 1 || f.others != 2 || f.p99 != 40*ms || f.refusedP99 != 3*ms || f.late != 50*ms {
		t.Errorf("%+v", f)
	}
	if f.clean() == nil {
		t.Error("refusals are clean")
	}
	if got := s.countSent(100*ms, 200*ms); got != 6 {
		t.Errorf("%d were sent in time", got)
	}
}

func TestQuantileAndMedian(t *testing.T) {
	var x []time.Duration
	for i := range 100 {
		x = append(x, time.Duration(100-i))
	}
	if quantile(x, .5) != 51 || quantile(x, .99) != 100 || quantile(x[:1], .99) != 1 || quantile(nil, .5) != 0 {
		t.Error("quantile")
	}
	m := median([]figures{{rate: 30, rss: 1, others: 1}, {rate: 10, rss: 5}, {rate: 20, rss: 3, noRetry: 2}})
	if m.rate != 20 || m.rss != 3 || m.others != 1 || m.noRetry != 2 {
		t.Errorf("%+v", m)
	}
	if m := median([]figures{{cpu: 10}, {cpu: 20}}); m.cpu != 15 {
		t.Errorf("of two: %v", m.cpu)
	}
}
