package hsm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/within"
)

// A member is a place for one token in a group: its backend, if it was ever reached,
// its PIN, and its breaker.
type member struct {
	name  string // for messages
	cfg   Config
	group *group
	pin   *pinSource // outlives the backend: a PIN that was refused is never tried again

	running atomic.Int64 // ops in it
	failed  atomic.Int64 // of them, in a row
	out     atomic.Bool  // the breaker is open: it is used only if no other works
	mends   atomic.Uint64
	good    [opKindAfter]atomic.Int64 // when an op of the kind ended well, in nanoseconds since 1970
	wake    chan struct{}

	backend atomic.Pointer[backend]

	mu      sync.Mutex
	err     error // why there is no backend, or why the breaker is open
	since   time.Time
	trips   uint64
	closed  bool
	earlier Stats // of backends that were closed
}

// tripsAfter is how many ops in a row fail before a token is put out of use; one that
// does not answer at all is at once.
const tripsAfter = 3

func newMember(cfg Config, g *group) *member {
	return &member{name: "token " + cfg.tokenName(), cfg: cfg, group: g, pin: &pinSource{from: cfg.PIN}, wake: make(chan struct{}, 1)}
}

// open makes the backend if there is none.
func (m *member) open(ctx context.Context) {
	b, err := m.connect(ctx)
	if err != nil {
		m.count(err)
		m.trip(err)
		return
	}
	if !m.keep(b) {
		_ = b.close()
	}
}

// keep has m use b, unless m was closed meanwhile.
func (m *member) keep(b backend) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.backend.Store(&b)
	}
	return !m.closed
}

// count keeps what was counted in an attempt to open that failed.
func (m *member) count(err error) {
	if e, ok := errors.AsType[*openError](err); ok {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.earlier = m.earlier.plus(e.stats)
	}
}

func (m *member) connect(ctx context.Context) (backend, error) {
	// A nil *remote or *token in the interface would be a backend.
	if m.cfg.Isolation == IsolationWorker {
		r, err := openRemote(ctx, m.cfg, m.pin, m.group.same, m.group.log)
		if err != nil {
			return nil, err
		}
		return r, nil
	}
	t, err := openToken(ctx, m.cfg, m.pin, m.group.same, m.group.log)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// works reports whether ops may be given to m.
func (m *member) works() bool { return !m.out.Load() }

// before reports whether an op is better given to m than to o.
func (m *member) before(o *member) bool {
	if mine, other := m.works(), o.works(); mine != other {
		return mine
	}
	return m.running.Load() < o.running.Load()
}

// reason returns why m is out of use, or nil.
func (m *member) reason() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.works() {
		return nil
	}
	return m.err
}

func (m *member) info() TokenInfo {
	if b := m.get(); b != nil {
		return b.info()
	}
	return TokenInfo{}
}

// get returns the backend, or nil if the token was not reached yet.
func (m *member) get() backend {
	if b := m.backend.Load(); b != nil {
		return *b
	}
	return nil
}

// do does o in m's token.
func (m *member) do(ctx context.Context, o *op) ([]byte, error) {
	b := m.get()
	if b == nil {
		return nil, fmt.Errorf("hsm: %s has not been reached yet: %w", m.name, m.lastError())
	}
	if ctx.Err() != nil { // this process stood still: that tells nothing of the token
		return nil, waited(ctx, "begin")
	}
	m.running.Add(1)
	defer m.running.Add(-1)
	life, begun := m.mends.Load(), time.Now()
	result, err := b.do(ctx, o)
	switch {
	case life != m.mends.Load(): // it tells of a fault that has ended
	case errors.Is(err, context.DeadlineExceeded) && (time.Since(begun) < min(m.cfg.Queue.Wait, m.cfg.Timeout/4) || m.good[o.kind].Load() > begun.UnixNano()):
		// Its caller had no time left, or the token had no place for it: it has done
		// others of the kind meanwhile.
	default:
		if err == nil {
			m.good[o.kind].Store(time.Now().UnixNano())
		}
		m.learn(ctx, o, err)
	}
	return result, err
}

// doOnce does o once, and does not wait until the end of ctx, as there is another
// token.
func (m *member) doOnce(ctx context.Context, o *op) ([]byte, error) {
	once := *o
	once.once = true
	w := new(within.Context)
	w.Begin(ctx, time.Now().Add(m.cfg.Timeout/2)) // the other needs time, too
	defer w.Stop()
	return m.do(w, &once)
}

// learn counts what became of an op. A caller who left, one who was refused because
// too many others wait, and one who asked for what the token does not do, or for a
// private key that it does not have, tell nothing of the token. While it is out of use only a probe tells that it works: what ends
// well then may be what it can still do.
func (m *member) learn(ctx context.Context, o *op, err error) {
	switch {
	case err == nil || !elsewhere(err) || errors.Is(err, kms.ErrUnsupported):
		if m.failed.Load() > 0 {
			m.failed.Store(0)
		}
		if m.out.Load() && err == nil && (o.kind == opStatus || len(m.group.members) == 1) {
			m.mend()
		}
	case errors.Is(err, errQueueFull) || errors.Is(err, errBusy) || errors.Is(ctx.Err(), context.Canceled):
	case errors.Is(err, ErrNoKey) || errors.Is(err, errWeakKey):
	case m.failed.Add(1) >= tripsAfter || tellsEnough(err):
		m.trip(err)
	}
}

// tellsEnough reports whether an error puts a token out of use at once: it does not
// answer, or not before it has been connected to, or refuses this gateway.
func tellsEnough(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errStalled) || errors.Is(err, errConnecting) || errors.Is(err, kms.ErrDenied)
}

// trip puts m out of use until a probe succeeds.
func (m *member) trip(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
	if m.out.Swap(true) {
		return
	}
	m.trips++
	m.since = time.Now()
	if m.get() != nil && len(m.group.members) > 1 {
		m.group.log.Error("hsm: a token is out of use; the others do its work", "token", m.cfg.logName(), "error", err)
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// mend puts m to use.
func (m *member) mend() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mends.Add(1)
	if m.out.Swap(false) && len(m.group.members) > 1 {
		m.group.log.Info("hsm: a token is in use again", "token", m.cfg.logName(), "after", time.Since(m.since).Round(time.Millisecond).String())
	}
}

func (m *member) lastError() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		return kms.ErrUnavailable
	}
	return m.err
}

// watch probes m while it is out of use, ever less often, but at least each second.
func (m *member) watch() {
	for life := m.group.life; ; {
		select {
		case <-life.Done():
			return
		case <-m.wake:
		}
		for pause := firstPause; !m.works(); pause = min(2*pause, lastPause) {
			select {
			case <-life.Done():
				return
			case <-time.After(pause):
				m.probe(life)
			}
		}
	}
}

// probe makes the backend, or uses the one that there is.
func (m *member) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if m.get() == nil {
		m.open(ctx)
	}
	if m.get() != nil {
		_, _ = m.do(ctx, &op{kind: opStatus}) // do learns what came of it
	}
}

func (m *member) stats() Stats {
	m.mu.Lock()
	earlier := m.earlier
	m.mu.Unlock()
	if b := m.get(); b != nil {
		return earlier.plus(b.stats()) // which may take a moment
	}
	return earlier
}

func (m *member) close() error {
	m.pin.forget()
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	if b := m.get(); b != nil {
		return b.close()
	}
	return nil
}

func (m *member) status() TokenStatus {
	s := TokenStatus{Name: m.name, Info: m.info(), Works: m.works(), Stats: m.stats()}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.Trips = m.trips
	if !s.Works && m.err != nil {
		s.Why = m.err.Error()
	}
	return s
}
