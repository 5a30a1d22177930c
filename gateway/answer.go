package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/kms"
)

// A streamer is a reply that writes itself, after it was audited.
type streamer interface {
	stream(w http.ResponseWriter, r *http.Request)
}

// A secret is a reply that is wiped as soon as it is encoded.
type secret interface {
	MaxJSON() int
	AppendJSON(dst []byte) []byte
	Wipe()
}

// answer audits the request and then answers it. No byte is written before the
// audit log has the entry.
func (s *Server) answer(w http.ResponseWriter, r *request, reply any, err error) {
	if w, ok := reply.(interface{ Wipe() }); ok {
		defer w.Wipe()
	}
	buffer := bodies.Get().(*[]byte)
	body, err := encode((*buffer)[:0], reply, err)
	defer func() { release(buffer, body) }()
	failure := r.conclude(err)
	s.report(r, failure, err)
	if err := s.cfg.Audit.Write(&r.entry); err != nil {
		s.metrics.auditFailures.Inc()
		if r.route == nil || !r.route.public {
			reply, failure = nil, api.ErrAuditUnavailable
		}
	}
	s.metrics.observe(r, failure)
	switch stream, ok := reply.(streamer); {
	case failure != nil:
		writeError(w, failure)
	case ok:
		stream.stream(w, r.http)
	default:
		writeBody(w, http.StatusOK, body)
	}
}

// bodies holds buffers for the bodies of answers. What is in them is wiped.
var bodies = sync.Pool{New: func() any {
	b := make([]byte, 0, 1024)
	return &b
}}

// release wipes body and gives it back, if it is what buffer was made for.
func release(buffer *[]byte, body []byte) {
	clear(body)
	if len(body) <= cap(*buffer) {
		bodies.Put(buffer)
	}
}

// encode appends the body of a success to dst: none for a nil reply and for a
// streamer.
func encode(dst []byte, reply any, err error) ([]byte, error) {
	if err != nil || reply == nil {
		return nil, err
	}
	switch reply := reply.(type) {
	case streamer:
		return nil, nil
	case secret:
		defer reply.Wipe()
		return append(reply.AppendJSON(slices.Grow(dst, reply.MaxJSON()+1)), '\n'), nil
	}
	body, err := json.Marshal(reply)
	if err != nil {
		return nil, fmt.Errorf("gateway: encode answer: %w", err)
	}
	return append(body, '\n'), nil
}

// conclude completes the entry and returns what the client is told of err, nil
// if it is nil.
func (r *request) conclude(err error) *api.Error {
	r.entry.Status, r.entry.Duration = http.StatusOK, time.Since(r.start)
	if err == nil {
		r.entry.Outcome = audit.OK
		return nil
	}
	failure := api.ErrorOf(err)
	r.entry.Status, r.entry.Error = failure.Status, failure.Message
	if r.entry.Outcome == "" {
		r.entry.Outcome = outcomeOf(failure)
	}
	return failure
}

func outcomeOf(e *api.Error) audit.Outcome {
	switch {
	case errors.Is(e, kms.ErrPendingDeletion):
		return audit.PendingDeletion
	case errors.Is(e, kms.ErrKeyExists):
		return audit.Exists
	}
	switch e.Status {
	case http.StatusForbidden:
		return audit.Denied
	case http.StatusNotFound:
		return audit.NotFound
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return audit.Unavailable
	case http.StatusInternalServerError:
		return audit.Error
	}
	return audit.Invalid
}

// report logs a fault of the server, once. What clients do wrong is counted and
// audited, but is no error: they could fill the log with it. So is what they send too
// much of at a time.
func (s *Server) report(r *request, failure *api.Error, err error) {
	if errors.Is(err, api.ErrOverload) {
		s.metrics.overload.WithLabelValues("bodies").Inc()
		return
	}
	if errors.Is(err, api.ErrAuditUnavailable) {
		return // package audit has logged it, once
	}
	if failure == nil || failure.Status < 500 || failure.Status == http.StatusNotImplemented || r.abandoned() {
		return
	}
	s.logger.Error("gateway: request failed", "request_id", r.entry.RequestID, "operation", r.entry.Operation,
		"key", r.entry.Key, "status", failure.Status, "error", err)
}

func writeError(w http.ResponseWriter, e *api.Error) {
	if e.Status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeBody(w, e.Status, e.AppendBody(nil))
}

// contentJSON is a header field that all answers share.
var contentJSON = []string{"application/json"}

func writeBody(w http.ResponseWriter, status int, body []byte) {
	h := w.Header()
	if len(body) > 0 {
		h["Content-Type"] = contentJSON
	}
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	w.Write(body) // the client may be gone: the audit log has the outcome
}
