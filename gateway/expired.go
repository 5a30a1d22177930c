package gateway

import (
	"sync"
	"time"

	"github.com/keygate/keygate/policy"
)

// warnEvery is how often there is a warning about one identity's certificate.
const warnEvery = time.Hour

// warnings remembers about whom there was a warning, and when. They are
// identities of the configuration, so not many.
type warnings struct {
	mu   sync.Mutex
	last map[policy.Identity]time.Time
}

// due reports whether a warning about id is to be logged now.
func (w *warnings) due(id policy.Identity, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at, ok := w.last[id]; ok && now.Sub(at) < warnEvery {
		return false
	}
	if w.last == nil {
		w.last = make(map[policy.Identity]time.Time)
	}
	w.last[id] = now
	return true
}

// acceptExpired counts a request with a self-signed certificate outside its
// validity, and warns, unless it is a stranger's.
func (s *Server) acceptExpired(r *request) {
	s.metrics.expired.Inc()
	known := r.entry.Policy != "" || r.identity == r.state.Rules.Admin()
	if leaf := r.conn.peerOf(r.http).leaf; known && s.expired.due(r.identity, r.entry.Time) {
		s.logger.Warn("gateway: a self-signed client certificate outside its validity was accepted; tls.clients.refuse_expired would refuse it",
			"identity", r.identity, "not_before", leaf.NotBefore, "not_after", leaf.NotAfter)
	}
}
