package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/keygate/keygate/admission"
	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/policy"
	"github.com/keygate/keygate/within"
)

// A request is one request on its way through the door.
type request struct {
	http     *http.Request
	conn     *connection
	ctx      within.Context // ends with the client, or with the route's time
	writer   http.ResponseWriter
	state    *state          // one for all of the request
	route    *route          // nil if there is none
	resource string          // what follows the route's path: of rules, audit and operation alike
	identity policy.Identity // empty: none was shown, or none is needed and it was no valid one
	entry    audit.Entry     // filled on the way
	start    time.Time       // for the duration
	body     []byte          // wiped at the end
	held     int64           // bytes that count for it

	caller *caller // whose it is, once it has come to enter
	gate   *admission.Gate
	ticket admission.Ticket
}

// serve is the one way of every request, known route or not.
func (s *Server) serve(w http.ResponseWriter, hr *http.Request, rt *route, resource string) {
	r := s.open(w, hr, rt, resource)
	if r.conn.raw != nil {
		defer r.conn.raw.turning.work(hr.ProtoMajor < 2)()
	}
	w.Header()["X-Request-Id"] = []string{r.entry.RequestID}
	if refused, wait := s.enter(r); refused != admitted {
		s.refuse(w, r, refused, wait)
		return
	}
	defer r.gate.Leave(&r.ticket)
	defer r.endBody()
	s.metrics.begin()
	defer s.metrics.end()
	r.limitTime()
	defer r.ctx.Stop()
	reply, err := s.do(w, r)
	s.answer(w, r, reply, err)
}

func (s *Server) open(w http.ResponseWriter, hr *http.Request, rt *route, resource string) *request {
	r := &request{http: hr, conn: connectionOf(hr), state: s.state.Load(), route: rt, resource: resource, writer: w, start: time.Now()}
	r.entry = audit.Entry{Time: s.now(r.start), RequestID: s.ids.id(), Source: hr.RemoteAddr}
	if rt == nil {
		r.entry.Path = shorten(hr.URL.Path)
		return r
	}
	r.entry.Operation, r.entry.Poll = rt.action.String(), rt.public || rt.action == policy.DescribeKey
	switch {
	case namesKey(rt.action) && keystore.ValidName(resource):
		r.entry.Key = resource
	case rt.action.TakesName() || rt.action.Lists():
		r.entry.Path = shorten(hr.URL.Path)
	}
	return r
}

// do does the operation, or returns why it is not done. Names are looked at only
// after the client is known to be allowed: a stranger learns nothing of them.
func (s *Server) do(w http.ResponseWriter, r *request) (reply any, err error) {
	defer func() {
		if p := recover(); p != nil {
			reply, err = nil, fmt.Errorf("gateway: panic: %v\n%s", p, debug.Stack())
		}
	}()
	if r.route == nil {
		s.identify(r)
		return nil, api.ErrNotImplemented
	}
	if !r.route.accepts(r.http.Method) {
		w.Header().Set("Allow", r.route.method)
		w.Header().Set("Accept", r.route.method) // where KES has it
		s.identify(r)
		return nil, api.MethodError(shorten(r.http.Method), r.route.method)
	}
	if err := s.authorize(r); err != nil {
		return nil, err
	}
	if !r.route.public {
		if err := s.cfg.Audit.Ready(); err != nil {
			return nil, errors.Join(api.ErrAuditUnavailable, err)
		}
	}
	return r.route.run(s, r)
}

// limitTime has the request's context, reads and writes end when the route's time
// is over. Where there are no deadlines, under a listener of the caller's, only the
// context does.
func (r *request) limitTime() {
	timeout := writeTime
	if r.route != nil {
		timeout = r.state.settings[r.route.action].timeout
	}
	var reads, writes time.Time
	if timeout > 0 {
		reads = r.start.Add(timeout)
		writes = reads.Add(writeTime)
	}
	r.ctx.Begin(r.http.Context(), reads)
	c := http.NewResponseController(r.writer)
	if r.http.ProtoMajor < 2 {
		// Set for every request, as those of the last one stay.
		c.SetReadDeadline(reads)
		c.SetWriteDeadline(writes)
	} else if timeout > 0 {
		c.SetWriteDeadline(writes) // for reads see timedRead
	}
}

// abandoned reports whether the client is gone. When the route's time is over,
// the end of reads ends the client's context, too.
func (r *request) abandoned() bool {
	end, timed := r.ctx.Deadline()
	return r.http.Context().Err() != nil && (!timed || time.Now().Before(end))
}

func namesKey(a policy.Action) bool {
	switch a {
	case policy.CreateKey, policy.ImportKey, policy.DescribeKey, policy.DeleteKey, policy.SetKeyMode,
		policy.GenerateDataKey, policy.Encrypt, policy.Decrypt, policy.MAC,
		policy.BulkDecrypt, policy.BatchGenerate, policy.BatchDecrypt:
		return true
	}
	return false
}

// maxText bounds what is repeated of a request's path and method. No valid path
// is longer.
const maxText = 200

func shorten(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "..."
	}
	return s
}
