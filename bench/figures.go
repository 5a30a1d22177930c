package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Figures are what a load showed in the time that was measured.
type figures struct {
	rate  float64       // requests answered with 200, a second
	p50   time.Duration // of those; of an open loop since they were due
	p99   time.Duration
	cpu   time.Duration // of the server, user and system, for each of those
	cores float64       // cores that the server used
	rss   int           // of the server at the end, in KiB

	late time.Duration // 0.99 quantile of how much later than due requests were sent: the load generator's own delay

	refused    float64       // requests answered with 429 or 503, a second
	refusedP99 time.Duration // of those, from sending to the answer
	noRetry    int           // of those, without Retry-After
	others     int           // requests answered with something else, or not at all
	first      error         // of the last of these
}

// measure runs a load for warm and then d, and looks only at the second part. A
// nil p stands for a server of which nothing but answers is seen.
func measure(ctx context.Context, l load, p *process, warm, d time.Duration) (figures, error) {
	s, err := l.start(ctx)
	if err != nil {
		return figures{}, err
	}
	defer s.stop()
	sleep(ctx, warm)
	begin, before := time.Now(), p.cpu()
	sleep(ctx, d)
	end, after := time.Now(), p.cpu()
	rss := p.rss()
	s.stop()
	if err := ctx.Err(); err != nil {
		return figures{}, err
	}
	f := s.figures(begin.Sub(s.begin), end.Sub(s.begin))
	f.rss, f.cores = rss, (after-before).Seconds()/end.Sub(begin).Seconds()
	if n := f.rate * end.Sub(begin).Seconds(); n > 0 {
		f.cpu = time.Duration(float64(after-before) / n)
	}
	return f, nil
}

// figures counts the samples that ended from begin to end.
func (s *shot) figures(begin, end time.Duration) figures {
	s.mu.Lock()
	defer s.mu.Unlock()
	var f figures
	var took, refused, late []time.Duration
	for _, x := range s.samples {
		if x.end() < begin || x.end() >= end {
			continue
		}
		late = append(late, x.late)
		switch {
		case x.ok():
			took = append(took, s.seen(x))
		case x.refused():
			refused = append(refused, x.took)
			if !x.retry {
				f.noRetry++
			}
		default:
			f.others++
			f.first = s.first
			if x.status != 0 {
				f.first = fmt.Errorf("status %d", x.status)
			}
		}
	}
	seconds := (end - begin).Seconds()
	f.rate, f.refused = float64(len(took))/seconds, float64(len(refused))/seconds
	f.p50, f.p99, f.refusedP99, f.late = quantile(took, .5), quantile(took, .99), quantile(refused, .99), quantile(late, .99)
	return f
}

// seen is how long a request took for whoever wanted it: in an open loop since
// it was due, so that a server that makes the load generator wait is not spared.
func (s *shot) seen(x sample) time.Duration {
	if s.rate > 0 {
		return x.late + x.took
	}
	return x.took
}

// quantile sorts x and returns its quantile q, 0 if it is empty.
func quantile(x []time.Duration, q float64) time.Duration {
	if len(x) == 0 {
		return 0
	}
	slices.Sort(x)
	return x[min(len(x)-1, int(q*float64(len(x))))]
}

// median returns the figures each of which is the median of those of all. What
// is counted is added.
func median(all []figures) figures {
	var m figures
	m.rate = middle(all, func(f figures) float64 { return f.rate })
	m.p50 = middle(all, func(f figures) time.Duration { return f.p50 })
	m.p99 = middle(all, func(f figures) time.Duration { return f.p99 })
	m.cpu = middle(all, func(f figures) time.Duration { return f.cpu })
	m.cores = middle(all, func(f figures) float64 { return f.cores })
	m.rss = middle(all, func(f figures) int { return f.rss })
	m.late = middle(all, func(f figures) time.Duration { return f.late })
	m.refused = middle(all, func(f figures) float64 { return f.refused })
	m.refusedP99 = middle(all, func(f figures) time.Duration { return f.refusedP99 })
	for _, f := range all {
		m.noRetry += f.noRetry
		m.others += f.others
		if f.first != nil {
			m.first = f.first
		}
	}
	return m
}

func middle[T int | float64 | time.Duration](all []figures, of func(figures) T) T {
	values := make([]T, len(all))
	for i, f := range all {
		values[i] = of(f)
	}
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// clean returns an error if there was any answer but 200.
func (f figures) clean() error {
	if f.others > 0 || f.refused > 0 {
		return fmt.Errorf("%d requests failed (%v), %.0f a second were refused", f.others, f.first, f.refused)
	}
	return nil
}
