package vaultapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// A session keeps one token good: it logs in when there is none, renews it at
// half of its life, and replaces it when that ends or the server refuses it.
// However many calls need a token at once, there is one login at a time, which
// does not end with the call that began it; and after a login that failed the
// next is not tried before a wait.
type session struct {
	client *Client
	ctx    context.Context // ends with Close
	end    context.CancelFunc
	kick   chan struct{} // tells keep that there is another lease
	tasks  sync.WaitGroup

	mu       sync.Mutex
	started  bool
	current  *lease
	flight   *flight   // the login that runs
	check    *flight   // the question that runs whether current is still good
	failures int       // logins in a row that failed
	lastErr  error     // of the last of them
	next     time.Time // no login before
	file     os.FileInfo
	useless  time.Time // until then, a refusal is not answered with a login
}

// A flight is what many wait for. Its results are set before done is closed.
type flight struct {
	done   chan struct{}
	lease  *lease
	err    error
	of     *lease    // of a check: whose
	at     time.Time // of a check: when it ended
	denied bool
}

const (
	minLoginWait    = 100 * time.Millisecond // after a login that failed; doubles
	maxLoginWait    = 2 * time.Second        // if there was no answer: the server may be back
	maxRefusedWait  = 15 * time.Second       // if it was refused
	checkGood       = time.Second            // how long it is believed that a token is good
	uselessWait     = 10 * time.Second       // after a new token that was refused as the old one was
	fileInterval    = time.Second            // how often a token file is looked at
	closePatience   = time.Second            // for the server to take a token back
	renewalFraction = 0.5                    // of a token's life
	renewalJitter   = 0.1                    // of it, to either side
)

func newSession(c *Client) *session {
	s := &session{client: c, kick: make(chan struct{}, 1)}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

// token returns the lease to use now, and logs in if there is none.
func (s *session) token(ctx context.Context) (*lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		return nil, errClosed
	}
	if l := s.current; l != nil && !l.expired(time.Now()) {
		s.mu.Unlock()
		return l, nil
	}
	f := s.logIn()
	s.mu.Unlock()
	return f.wait(ctx)
}

func (f *flight) wait(ctx context.Context) (*lease, error) {
	select {
	case <-f.done:
		return f.lease, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// logIn returns the login that runs, or begins one, or returns the failure of
// the last if it is too early for another. s.mu is held.
func (s *session) logIn() *flight {
	if s.flight != nil {
		return s.flight
	}
	if s.ctx.Err() != nil {
		return landed(errClosed)
	}
	if s.failures > 0 && time.Now().Before(s.next) {
		return landed(s.lastErr)
	}
	f := &flight{done: make(chan struct{})}
	s.flight = f
	if !s.started {
		s.started = true
		s.tasks.Go(s.keep)
	}
	s.tasks.Go(func() { s.fly(f) })
	return f
}

// landed returns a flight that has failed.
func landed(err error) *flight {
	f := &flight{done: make(chan struct{}), err: err}
	close(f.done)
	return f
}

// fly does the work of a login.
func (s *session) fly(f *flight) {
	ctx, cancel := context.WithTimeout(s.ctx, s.client.cfg.Timeout)
	defer cancel()
	var file os.FileInfo
	if path := s.client.cfg.Auth.TokenFile; path != "" {
		file, _ = os.Stat(path) // before it is read: a change after this is seen
	}
	l, err := s.client.login(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flight, f.lease, f.err = nil, l, err
	s.file = file
	if err != nil {
		s.failed(err)
	} else {
		s.succeeded(l)
	}
	close(f.done)
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// failed and succeeded note how a login ended; s.mu is held.
func (s *session) failed(err error) {
	s.client.stats.loginFailures.Add(1)
	if s.ctx.Err() != nil {
		return
	}
	longest := maxLoginWait
	if KindOf(err) == Denied {
		longest = maxRefusedWait
	}
	wait := min(minLoginWait<<min(s.failures, 10), longest)
	s.next = time.Now().Add(wait/2 + rand.N(wait/2+1))
	if s.failures == 0 {
		s.client.log.Error("vaultapi: login failed; it is tried again", "address", s.client.cfg.Address, "error", err)
	}
	s.failures++
	s.lastErr = err
}

func (s *session) succeeded(l *lease) {
	s.client.stats.logins.Add(1)
	if s.failures > 0 {
		s.client.log.Info("vaultapi: login succeeded", "address", s.client.cfg.Address, "failures", s.failures)
	}
	s.current, s.failures, s.lastErr = l, 0, nil
}

// refused is told that the server refused the token of l. It returns the lease
// to try next, or nil if l is good: what was asked for is not allowed, then, and
// another token of the same login would not help. Any number of refusals costs
// one question and one login.
func (s *session) refused(ctx context.Context, l *lease) (*lease, error) {
	s.mu.Lock()
	if s.current != nil && s.current != l && s.current.token != l.token {
		next := s.current
		s.mu.Unlock()
		return next, nil
	}
	if time.Now().Before(s.useless) {
		s.mu.Unlock()
		return nil, nil
	}
	f := s.ask(l)
	s.mu.Unlock()
	if _, err := f.wait(ctx); err != nil {
		return nil, err
	}
	if !f.denied {
		return nil, nil
	}
	return s.replace(ctx, l)
}

// ask returns the flight that finds out whether l is good; s.mu is held. err of
// the flight is set if the server cannot tell.
func (s *session) ask(l *lease) *flight {
	if f := s.check; f != nil && f.of == l && (f.at.IsZero() || time.Since(f.at) < checkGood) {
		return f
	}
	if s.ctx.Err() != nil {
		return landed(errClosed)
	}
	f := &flight{done: make(chan struct{}), of: l}
	s.check = f
	s.client.stats.lookups.Add(1)
	s.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, s.client.cfg.Timeout)
		defer cancel()
		ok, denied := s.client.valid(ctx, l)
		s.mu.Lock()
		defer s.mu.Unlock()
		f.at, f.denied = time.Now(), denied
		if !ok && !denied {
			f.err = errors.New("vaultapi: the server refused a token, and cannot say whether it is good")
			s.check = nil
		}
		close(f.done)
	})
	return f
}

// replace returns another lease than l, of a login that any number of callers
// share; nil if it has the same token, as of a file that did not change.
func (s *session) replace(ctx context.Context, l *lease) (*lease, error) {
	s.mu.Lock()
	if s.current != nil && s.current.token != l.token {
		next := s.current
		s.mu.Unlock()
		return next, nil
	}
	f := s.logIn()
	s.mu.Unlock()
	next, err := f.wait(ctx)
	if err != nil {
		return nil, err
	}
	if next.token == l.token {
		s.unhelpful()
		return nil, nil
	}
	return next, nil
}

// unhelpful is told that a new token was refused too.
func (s *session) unhelpful() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.useless = time.Now().Add(uselessWait)
}

// keep renews the lease until Close.
func (s *session) keep() {
	var file <-chan time.Time
	if s.client.cfg.Auth.TokenFile != "" {
		tick := time.NewTicker(fileInterval)
		defer tick.Stop()
		file = tick.C
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-file:
			s.lookAtFile()
		case <-s.kick:
			s.plan(timer)
		case <-timer.C:
			s.prolong()
			s.plan(timer)
		}
	}
}

// plan sets timer to when the lease is to be prolonged.
func (s *session) plan(timer *time.Timer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := time.Hour
	switch l := s.current; {
	case s.failures > 0:
		wait = time.Until(s.next)
	case l != nil && l.ttl > 0:
		wait = time.Until(l.since.Add(prolongAt(l.ttl, rand.Float64())))
	}
	timer.Reset(max(wait, 10*time.Millisecond))
}

// prolongAt is when a token of this life is prolonged; x is from 0 to 1.
func prolongAt(ttl time.Duration, x float64) time.Duration {
	return time.Duration(float64(ttl) * (renewalFraction + renewalJitter*(2*x-1)))
}

// prolong renews the lease, or, where that gives no more time or cannot be
// done, logs in. A login that fails leaves what is left of the lease.
func (s *session) prolong() {
	s.mu.Lock()
	l, busy := s.current, s.flight != nil
	s.mu.Unlock()
	if busy {
		return
	}
	if l != nil && l.renewable && !l.expired(time.Now()) && s.renew(l) {
		return
	}
	if l != nil && l.ttl == 0 {
		return
	}
	s.mu.Lock()
	s.logIn()
	s.mu.Unlock()
}

// renew reports whether l was renewed for long enough to be worth it.
func (s *session) renew(l *lease) bool {
	ctx, cancel := context.WithTimeout(s.ctx, s.client.cfg.Timeout)
	defer cancel()
	renewed, err := s.client.renew(ctx, l)
	if err != nil {
		s.client.stats.renewalFailures.Add(1)
		return false
	}
	s.client.stats.renewals.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == l {
		s.current = renewed
	}
	// The longest life of a token shortens its last lease.
	return renewed.ttl == 0 || renewed.ttl > time.Until(l.since.Add(l.ttl))+l.ttl/4
}

// lookAtFile logs in with a token file that has changed.
func (s *session) lookAtFile() {
	now, err := os.Stat(s.client.cfg.Auth.TokenFile)
	if err != nil {
		return // it is being replaced, or lost: the token that was read goes on
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil && os.SameFile(s.file, now) && s.file.ModTime().Equal(now.ModTime()) && s.file.Size() == now.Size() {
		return
	}
	s.failures, s.useless = 0, time.Time{}
	s.logIn()
}

// close ends the login, and what keeps it, and gives the token back.
func (s *session) close() {
	s.mu.Lock()
	if s.ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	s.end()
	s.mu.Unlock()
	s.tasks.Wait()
	s.mu.Lock()
	l := s.current
	s.mu.Unlock()
	if l != nil && l.own && !l.expired(time.Now()) {
		ctx, cancel := context.WithTimeout(context.Background(), closePatience)
		defer cancel()
		s.client.revoke(ctx, l)
	}
}

// Format hides the token.
func (s *session) Format(f fmt.State, _ rune) { fmt.Fprint(f, "vaultapi.session") }
