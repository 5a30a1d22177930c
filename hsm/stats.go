package hsm

import "sync/atomic"

type counters struct{ errors, retries, logins, refused, withheld atomic.Uint64 }

// Stats counts what was done with a token since it was opened. It can be sent as
// JSON.
type Stats struct {
	Calls       uint64 // calls that were given to the token
	Errors      uint64 // operations that failed
	Retries     uint64 // operations that were tried a second time
	Rejected    uint64 // calls refused because too many waited, or for too long
	Waiting     int    // calls that wait for a session
	Hung        int    // calls that hang in the module now
	WrittenOff  uint64 // calls that hung, ever
	Sessions    int64  // open sessions
	Logins      uint64 // calls of C_Login
	Connections uint64 // connections made to the token: all but the first are repairs
	Failures    uint64 // connections that could not be made
	LoadedKeys  int    // master keys that are loaded in the token

	Busy  int // sessions that calls are running on, those that hang among them
	Limit int // calls that the token is given at a time: the sessions of the configuration, if it has so many

	PINsRefused  uint64          // logins that the token refused for the PIN
	PINsWithheld uint64          // logins that were not tried: ErrPINAtRisk, or a PIN that was refused before
	Functions    []FunctionStats // of the module's functions, those that were ever called
	Restarts     uint64          // worker processes in the place of others
}

func (s Stats) plus(o Stats) Stats {
	s.Calls += o.Calls
	s.Errors += o.Errors
	s.Retries += o.Retries
	s.Rejected += o.Rejected
	s.Waiting += o.Waiting
	s.Hung += o.Hung
	s.WrittenOff += o.WrittenOff
	s.Sessions += o.Sessions
	s.Logins += o.Logins
	s.Connections += o.Connections
	s.Failures += o.Failures
	s.LoadedKeys += o.LoadedKeys
	s.Busy += o.Busy
	s.Limit += o.Limit
	s.PINsRefused += o.PINsRefused
	s.PINsWithheld += o.PINsWithheld
	s.Functions = sumFunctions(s.Functions, o.Functions)
	s.Restarts += o.Restarts
	return s
}

// ended returns what is left of s when its backend has been closed: what counts on.
func (s Stats) ended() Stats {
	s.Waiting, s.Hung, s.Sessions, s.LoadedKeys, s.Busy, s.Limit = 0, 0, 0, 0, 0, 0
	s.Functions = endFunctions(s.Functions)
	return s
}

func (t *token) stats() Stats {
	s := Stats{Errors: t.count.errors.Load(), Retries: t.count.retries.Load(), Logins: t.count.logins.Load(),
		PINsRefused: t.count.refused.Load(), PINsWithheld: t.count.withheld.Load(), Functions: t.module.book.stats()}
	for _, p := range []*pool{t.pool, t.keeper} {
		s.Calls += p.calls.Load()
		s.Rejected += p.full.Load()
		s.Waiting += p.queue.waiting()
		p.mu.Lock()
		s.Hung += p.lost
		s.WrittenOff += p.written
		s.Busy += p.busyLocked()
		p.mu.Unlock()
	}
	s.Limit = t.pool.size
	t.repair.mu.Lock()
	s.Connections, s.Failures = t.repair.links, t.repair.failed+t.repair.failures
	t.repair.mu.Unlock()
	if l := t.link.Load(); l != nil {
		s.Sessions = l.sessions.Load()
		l.mu.Lock()
		s.LoadedKeys = len(l.keys)
		l.mu.Unlock()
	}
	return s
}

// TokenStatus is one token of a Root as it is now.
type TokenStatus struct {
	Name  string    // as configured
	Info  TokenInfo // as of the last connection; zero: there was none
	Works bool      // false: its breaker is open, and ops go to others
	Why   string    // if not Works: the error that opened it
	Trips uint64    // how often it was opened
	Stats Stats
}

// Tokens returns the state of each token, in the order of the configuration.
func (r *Root) Tokens() []TokenStatus {
	var all []TokenStatus
	for _, m := range r.group.members {
		all = append(all, m.status())
	}
	return all
}

// Stats returns the counters of all tokens together.
func (r *Root) Stats() (sum Stats) {
	for _, m := range r.group.members {
		sum = sum.plus(m.stats())
	}
	return sum
}

// Degraded names the tokens of several that are out of use; see kms.Degradable. One
// that stands alone is not named: while it cannot be used the root cannot.
func (r *Root) Degraded() (away []string) {
	for _, m := range r.group.members {
		if len(r.group.members) > 1 && !m.works() {
			away = append(away, m.name)
		}
	}
	return away
}

// Moved returns how many ops were tried again in another token.
func (r *Root) Moved() uint64 { return r.group.moved.Load() }
