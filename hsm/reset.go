package hsm

import (
	"sync"
	"time"
)

// To initialise a library anew ends the connections of all its users, with the keys
// that are loaded there. While one of them works, another that does not, a token that
// is away for days for one, has that done ever less often; so have private keys that
// cannot be used until then (owesKeys).
const firstReset, lastReset = time.Second, 5 * time.Minute

// resets are when a library may be initialised anew.
type resets struct {
	mu    sync.Mutex
	users map[*token]bool // that may have a link
	away  backoff         // if that costs another user his link
	owed  backoff         // if it costs a user who asks for private keys his own
}

// A backoff is when something is done that is done ever less often.
type backoff struct {
	pause time.Duration
	after time.Time // not before
}

func (b *backoff) over(now time.Time) bool { return !now.Before(b.after) }

// begin says that it is done now.
func (b *backoff) begin(now time.Time) {
	b.pause = min(max(2*b.pause, firstReset), lastReset)
	b.after = now.Add(b.pause)
}

// joined says that t uses the library, until left.
func (m *module) joined(t *token) {
	r := &m.resets
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users == nil {
		r.users = make(map[*token]bool)
	}
	r.users[t] = true
}

func (m *module) left(t *token) {
	r := &m.resets
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.users, t)
}

// mayReset reports whether the library may be initialised anew now, for t. It counts as
// done then.
func (m *module) mayReset(t *token) bool {
	r := &m.resets
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mayReset(t, time.Now())
}

func (r *resets) mayReset(t *token, now time.Time) bool {
	if !r.servesOthers(t) {
		return true
	}
	if !r.away.over(now) {
		return false
	}
	r.away.begin(now)
	return true
}

// shared reports whether another token uses the library: to initialise it over and over
// would keep that one from connecting, too.
func (r *resets) shared(t *token) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.users) > 1 || len(r.users) == 1 && !r.users[t]
}

// mayResetForKeys is mayReset where t works but for private keys.
func (m *module) mayResetForKeys(t *token) bool {
	r := &m.resets
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !r.owed.over(now) || !r.mayReset(t, now) {
		return false
	}
	r.owed.begin(now)
	return true
}

// worthKeys reports whether a connection that works may be made anew to have private
// keys: the library could then be initialised anew.
func (m *module) worthKeys() bool {
	r := &m.resets
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	return r.owed.over(now) && r.away.over(now)
}

// serves reports whether the library serves a Root at this time.
func (r *resets) serves() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.servesOthers(nil)
}

func (r *resets) servesOthers(t *token) bool {
	for other := range r.users {
		if other != t && other.link.Load().usable() {
			return true
		}
	}
	return false
}

// resetHelped says that a token works, with its private keys, since the library was
// initialised anew.
func (m *module) resetHelped() {
	r := &m.resets
	r.mu.Lock()
	defer r.mu.Unlock()
	r.away.pause, r.owed = 0, backoff{}
}
