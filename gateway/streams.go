package gateway

import (
	"encoding/json"
	"net"
	"net/http"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/policy"
)

// A lineStream is the reply of a log route: JSON lines as they come, until the
// client goes, may no longer have them, or the server stops.
type lineStream[T any] struct {
	follow func() (lines <-chan T, cancel func())
	may    func() bool // whether the client may have the next line
	event  func(T) any // what a line becomes
	stop   <-chan struct{}
}

// recheck is after what time a client's certificate is looked at again.
const recheck = time.Minute

// stillMay returns what reports whether the request would be done now. A stream can
// last for weeks: rules and certificate count as they are when a line is sent, not as
// they were when it began.
func (s *Server) stillMay(r *request) func() bool {
	return func() bool {
		st, now := s.state.Load(), s.now(time.Now())
		if st == r.state && now.Sub(r.entry.Time) < recheck {
			return true
		}
		r.state, r.entry.Time = st, now
		return s.authorize(r) == nil
	}
}

// lineTime is how long a client may take to read what is sent to it.
const lineTime = 30 * time.Second

func (s *lineStream[T]) stream(w http.ResponseWriter, r *http.Request) {
	lines, cancel := s.follow() // before the answer begins, after which the client misses nothing
	defer cancel()
	c := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if c.Flush() != nil {
		return
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for {
		select {
		case <-r.Context().Done():
			return
		case <-s.stop:
			return
		case line, ok := <-lines:
			c.SetWriteDeadline(time.Now().Add(lineTime))
			if !ok || !s.may() || enc.Encode(s.event(line)) != nil || c.Flush() != nil {
				return
			}
		}
	}
}

func (s *Server) readErrorLog(r *request) (any, error) {
	return &lineStream[string]{follow: s.cfg.ErrorLog.follows.follow, may: s.stillMay(r), stop: s.stop, event: func(line string) any {
		return api.ErrorEvent{Message: line}
	}}, nil
}

func (s *Server) readAuditLog(r *request) (any, error) {
	return &lineStream[audit.Entry]{follow: s.cfg.Audit.Subscribe, may: s.stillMay(r), stop: s.stop, event: func(e audit.Entry) any {
		return auditEvent(&e)
	}}, nil
}

// auditEvent returns an entry in the form of KES.
func auditEvent(e *audit.Entry) api.AuditEvent {
	ip, _, err := net.SplitHostPort(e.Source)
	if err != nil {
		ip = e.Source
	}
	return api.AuditEvent{
		Time:     e.Time.UTC(),
		Request:  api.AuditRequest{IP: ip, Path: pathOf(e), Identity: e.Identity},
		Response: api.AuditResponse{Code: e.Status, Time: e.Duration},
	}
}

// pathOf returns the path of an entry's request.
func pathOf(e *audit.Entry) string {
	if e.Path != "" {
		return e.Path
	}
	for _, a := range policy.Actions() {
		if a.String() == e.Operation {
			return a.Path() + e.Key
		}
	}
	return ""
}
