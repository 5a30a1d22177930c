package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A load is requests that workers send to a target, each one after the other.
type load struct {
	target   target
	protocol protocol
	conns    int // connections
	streams  int // workers on each connection; 1 for HTTP/1.1

	// next returns request number i of all, or nil: no more. It is called
	// concurrently.
	next func(i int) *request

	// rate is how many requests a second all workers begin together (an open
	// loop: whether or not earlier ones have been answered, as long as a worker
	// is free); 0: each begins the next as soon as it has an answer.
	rate float64

	// patience, if not zero, is after what time each request is cancelled.
	patience time.Duration
}

// A sample is one request.
type sample struct {
	due    time.Duration // when it was to begin, since the load began
	late   time.Duration // how much later it was sent: the load generator's delay
	took   time.Duration // from sending to the answer
	status int           // 0: no answer
	retry  bool          // the answer had Retry-After
}

func (s sample) end() time.Duration { return s.due + s.late + s.took }

func (s sample) ok() bool { return s.status == 200 }

func (s sample) refused() bool { return s.status == 503 || s.status == 429 }

// A shot is a load that runs. Its samples may be looked at when it has ended.
type shot struct {
	load
	begin   time.Time
	counter atomic.Int64
	ended   chan struct{}
	cancel  context.CancelFunc

	mu        sync.Mutex
	samples   []sample
	cancelled int   // requests that were cancelled in time
	failed    int   // requests and connections that failed
	first     error // of those
}

// start opens all connections, and then has the workers send until stop is
// called, ctx ends or there is no more to send.
func (l load) start(ctx context.Context) (*shot, error) {
	clients, err := l.dialAll(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &shot{load: l, ended: make(chan struct{}), cancel: cancel, begin: time.Now()}
	var workers sync.WaitGroup
	lines := make([]*line, len(clients))
	for i, c := range clients {
		line := &line{shot: s, number: i, client: c}
		lines[i] = line
		for j := range l.streams {
			workers.Go(func() { s.work(ctx, line, i*l.streams+j) })
		}
	}
	go func() {
		workers.Wait()
		for _, l := range lines {
			l.close()
		}
		cancel()
		close(s.ended)
	}()
	return s, nil
}

// dialers is how many handshakes are made at a time.
const dialers = 8

func (l load) dialAll(ctx context.Context) ([]client, error) {
	clients := make([]client, l.conns)
	errs := make([]error, l.conns)
	var wg sync.WaitGroup
	var n atomic.Int64
	for range min(dialers, l.conns) {
		wg.Go(func() {
			for i := int(n.Add(1)) - 1; i < l.conns; i = int(n.Add(1)) - 1 {
				clients[i], errs[i] = l.target.dial(ctx, l.protocol, i)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		for i, c := range clients {
			if errs[i] == nil {
				c.close()
			}
		}
		return nil, errs[firstError(errs)]
	}
	return clients, nil
}

func firstError(errs []error) int {
	for i, err := range errs {
		if err != nil {
			return i
		}
	}
	return -1
}

// A line is a connection that its workers share, and that is made anew when it
// fails.
type line struct {
	shot   *shot
	number int

	mu     sync.Mutex
	client client
}

// get returns a connection other than broken.
func (l *line) get(ctx context.Context, broken client) (client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil && l.client != broken {
		return l.client, nil
	}
	if l.client != nil {
		l.client.close()
		l.client = nil
	}
	c, err := l.shot.target.dial(ctx, l.shot.protocol, l.number)
	if err != nil {
		return nil, err
	}
	l.client = c
	return c, nil
}

func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client != nil {
		l.client.close()
	}
}

// work is one worker. The samples are its own until it ends.
func (s *shot) work(ctx context.Context, l *line, n int) {
	var mine []sample
	var cancelled, failed int
	var first error
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.samples = append(s.samples, mine...)
		s.cancelled += cancelled
		s.failed += failed
		if s.first == nil {
			s.first = first
		}
	}()
	pace := s.pace(n)
	var broken client
	for ctx.Err() == nil {
		due, ok := pace.wait(ctx)
		if !ok {
			return
		}
		r := s.next(int(s.counter.Add(1)) - 1)
		if r == nil {
			return
		}
		c, err := l.get(ctx, broken)
		smp := sample{due: due}
		if err == nil {
			sent := time.Now()
			smp.late = sent.Sub(s.begin) - due
			var a answer
			a, err = c.do(r, s.patience)
			smp.took, smp.status, smp.retry = time.Since(sent), a.status, a.retryAfter
			if err != nil && !errors.Is(err, errCancelled) {
				broken = c
			}
		}
		switch {
		case errors.Is(err, errCancelled):
			cancelled++
		case err != nil && ctx.Err() != nil:
			return // it was cut off by the end
		case err != nil:
			failed++
			if first == nil {
				first = err
			}
			mine = append(mine, smp)
			sleep(ctx, 10*time.Millisecond) // a server that is gone is not hammered
		default:
			mine = append(mine, smp)
		}
	}
}

// stop ends the load and waits for the requests that are under way.
func (s *shot) stop() {
	s.cancel()
	select {
	case <-s.ended:
	case <-time.After(answerTime):
	}
}

// answerTime is more than any answer may take.
const answerTime = 30 * time.Second

// A pacer says when a worker's requests are due.
type pacer struct {
	begin time.Time
	every time.Duration // 0: as soon as possible
	next  time.Duration
}

func (s *shot) pace(n int) *pacer {
	p := &pacer{begin: s.begin}
	if s.rate > 0 {
		workers := s.conns * s.streams
		p.every = time.Duration(float64(time.Second) * float64(workers) / s.rate)
		p.next = p.every * time.Duration(n) / time.Duration(workers)
	}
	return p
}

// wait waits until the next request is due, and returns when that was.
func (p *pacer) wait(ctx context.Context) (due time.Duration, ok bool) {
	now := time.Since(p.begin)
	if p.every == 0 {
		return now, true
	}
	due = p.next
	p.next += p.every
	return due, due <= now || sleep(ctx, due-now)
}

// sleep reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
