package hsm

import "sync/atomic"

type counters struct{ errors, retries, logins atomic.Uint64 }

// Stats counts what a Root has done since it was opened.
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
}

// Stats returns the counters as they are now.
func (r *Root) Stats() Stats {
	s := Stats{Errors: r.stats.errors.Load(), Retries: r.stats.retries.Load(), Logins: r.stats.logins.Load()}
	for _, p := range []*pool{r.pool, r.keeper} {
		s.Calls += p.calls.Load()
		s.Rejected += p.full.Load()
		s.Waiting += p.queue.waiting()
		p.mu.Lock()
		s.Hung += p.lost
		s.WrittenOff += p.written
		p.mu.Unlock()
	}
	r.repair.mu.Lock()
	s.Connections, s.Failures = r.repair.links, r.repair.failed+r.repair.failures
	r.repair.mu.Unlock()
	if l := r.link.Load(); l != nil {
		s.Sessions = l.sessions.Load()
		l.mu.Lock()
		s.LoadedKeys = len(l.keys)
		l.mu.Unlock()
	}
	return s
}
