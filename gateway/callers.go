package gateway

import (
	"sync"
	"time"

	"github.com/keygate/keygate/admission"
	"github.com/keygate/keygate/policy"
)

// A caller is one identity, in terms of what it asks for at a time. All those that
// no policy names are one: anyone can make as many identities as he likes.
type caller struct {
	identity policy.Identity // empty: the strangers
	limit    admission.Limit

	work   admission.Flow // of all routes but public ones, in callers.work
	system admission.Flow // of public routes, in callers.system
	used   admission.Rate // of limit
	paced  admission.Rate // refusals
	tolls  [len(refusals)]toll
	turns  *turns // of its connections

	bodies    bodyMemory
	allBodies *bodyMemory // of all callers
}

// callers are all that have come since the server was started, and what they
// share. One that has come is not forgotten: they are identities of the
// configuration.
type callers struct {
	limits     LimitsConfig
	work       *admission.Gate
	system     *admission.Gate
	handshakes handshakes
	strangers  *caller
	turnstile  *turnstile
	bodies     bodyMemory

	mu  sync.Mutex
	all map[policy.Identity]*caller
}

// patience is after what time a request that has begun is held to wait for others,
// as one that is served from memory takes some 10 us here.
const patience = 2 * time.Millisecond

// What public routes have for themselves: they must answer while all else is
// refused, and must not be a way to load the server.
const (
	systemRunning = 8
	systemQueue   = 64
	systemWait    = time.Second
	systemPending = 256
)

func newCallers(l LimitsConfig) *callers {
	l = l.WithDefaults()
	stile := new(turnstile)
	c := &callers{
		limits:    l,
		turnstile: stile,
		work: admission.NewGate(admission.Limits{
			Running: l.Running, Share: max(l.Running/2, 1), Queue: l.Queue, Wait: l.Wait, Patience: patience, Parked: l.Pending}),
		system: admission.NewGate(admission.Limits{
			Running: systemRunning, Share: systemRunning / 2, Queue: systemQueue, Wait: systemWait, Patience: patience, Parked: systemPending}),
		handshakes: newHandshakes(l.Handshakes),
		bodies:     bodyMemory{limit: int64(l.Bodies)},
		all:        make(map[policy.Identity]*caller),
	}
	c.strangers = c.newCaller("")
	return c
}

func (c *callers) newCaller(id policy.Identity) *caller {
	return &caller{
		identity: id, limit: c.limits.limitOf(id), turns: c.turnstile.turns(),
		bodies: bodyMemory{limit: int64(c.limits.Bodies / 2)}, allBodies: &c.bodies,
	}
}

// of returns the caller with an identity.
func (c *callers) of(id policy.Identity) *caller {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.all[id]
	if one == nil {
		one = c.newCaller(id)
		c.all[id] = one
	}
	return one
}

// list returns all callers.
func (c *callers) list() []*caller {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []*caller{c.strangers}
	for _, one := range c.all {
		all = append(all, one)
	}
	return all
}

// A seen caller is whose a connection was found to be, under a state.
type seen struct {
	state  *state
	caller *caller
}

// callerOf returns whose a request is.
func (s *Server) callerOf(r *request) *caller {
	if was := r.conn.seen.Load(); was != nil && was.state == r.state {
		return was.caller
	}
	one := s.callers.strangers
	if p := r.conn.peerOf(r.http); p.err == nil && (p.identity == r.state.Rules.Admin() || r.state.Rules.PolicyOf(p.identity) != "") {
		one = s.callers.of(p.identity)
	}
	if r.conn.raw != nil {
		r.conn.raw.turning.belong(one.turns)
	}
	r.conn.seen.Store(&seen{r.state, one})
	return one
}

// enter has a request begin, or returns why it does not.
func (s *Server) enter(r *request) (refused refusal, wait time.Duration) {
	r.caller = s.callerOf(r)
	r.gate = s.callers.work
	flow := &r.caller.work
	if r.route != nil && r.route.public {
		r.gate, flow = s.callers.system, &r.caller.system
	} else if wait := r.caller.used.Take(r.caller.limit, r.start); wait > 0 {
		return overRate, wait
	}
	if r.gate.Enter(r.http.Context(), flow, &r.ticket, r.start) != nil {
		return overload, time.Second
	}
	return admitted, 0
}

// charge counts the items of a batch after the first, which the request was.
func (r *request) charge(items int) {
	r.caller.used.Charge(r.caller.limit, r.start, items-1)
}
