package hsm

import (
	"sync"
	"time"
)

// To initialise a library anew ends the connections of all its users, with the keys
// that are loaded there. While one of them works, another that does not, a token that
// is away for days for one, has that done ever less often.
const firstReset, lastReset = time.Second, 5 * time.Minute

// resets are when a library may be initialised anew.
type resets struct {
	mu    sync.Mutex
	users map[*token]bool // that may have a link
	pause time.Duration
	after time.Time // not before, if that costs another user his link
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
	if !r.servesOthers(t) {
		return true
	}
	now := time.Now()
	if now.Before(r.after) {
		return false
	}
	r.pause = min(max(2*r.pause, firstReset), lastReset)
	r.after = now.Add(r.pause)
	return true
}

// shared reports whether another token uses the library: to initialise it over and over
// would keep that one from connecting, too.
func (r *resets) shared(t *token) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.users) > 1 || len(r.users) == 1 && !r.users[t]
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

// resetHelped says that a token works since the library was initialised anew.
func (m *module) resetHelped() {
	r := &m.resets
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pause = 0
}
