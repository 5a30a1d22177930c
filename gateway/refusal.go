package gateway

import (
	"context"
	"math"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/keygate/keygate/admission"
	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/audit"
)

// A refusal is why a request is not begun.
type refusal int

const (
	admitted refusal = iota - 1
	overload         // it could not be in time
	overRate         // its identity has used its rate
)

// refusals are the answers, and their names in metrics.
var refusals = [...]struct {
	answer *api.Error
	name   string
}{
	overload: {api.ErrOverload, "overload"},
	overRate: {api.ErrRate, "rate"},
}

// A refusal costs some 20 us of CPU, most of it in TLS and HTTP: a client that
// does nothing but be refused could take the whole machine. So the first ones of a
// caller in a second are answered at once, and the next are not read as fast as
// they come: over HTTP/1.1 the connection rests after the answer, over HTTP/2,
// where that would hold up others of the connection, the answer comes later.
const (
	promptly = 1000        // a second for each CPU, of one caller
	longest  = time.Second // that one connection or stream is held
)

// refuse answers a request that was not begun.
func (s *Server) refuse(w http.ResponseWriter, r *request, why refusal, retry time.Duration) {
	hold := r.caller.paced.Pace(admission.Limit{PerSecond: float64(promptly * runtime.GOMAXPROCS(0))}, r.start, longest)
	streams := r.http.ProtoMajor >= 2
	if streams {
		s.rest(r.http.Context(), hold)
	}
	s.identify(r)
	r.entry.Outcome = audit.Refused
	failure := r.conclude(refusals[why].answer)
	s.auditRefusal(r, why)
	s.metrics.overload.WithLabelValues(refusals[why].name).Inc()
	s.metrics.observe(r, failure)

	c := http.NewResponseController(w)
	c.SetReadDeadline(time.Now().Add(writeTime)) // of a body that is not read here
	c.SetWriteDeadline(time.Now().Add(writeTime))
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(max(retry, time.Second).Seconds()))))
	writeBody(w, failure.Status, failure.AppendBody(nil))
	if !streams && hold > 0 && c.Flush() == nil {
		s.rest(r.http.Context(), hold)
	}
}

// rest waits, if the client stays and the server does not stop.
func (s *Server) rest(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.stop:
	}
}

// A toll counts a caller's refusals that have no audit entry of their own.
type toll struct {
	mu    sync.Mutex
	since time.Time // of the last entry
	n     int       // refusals after that
}

// tollTime is how often a caller's refusals of one kind are written down.
const tollTime = time.Second

// add reports whether a refusal is to be written down, and how many before it were
// not.
func (t *toll) add(now time.Time) (skipped int, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.since) < tollTime {
		t.n++
		return 0, false
	}
	skipped, t.n, t.since = t.n, 0, now
	return skipped, true
}

// take returns how many refusals before a time were not written down yet.
func (t *toll) take(before time.Time) (skipped int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.since.Before(before) {
		return 0
	}
	skipped, t.n = t.n, 0
	return skipped
}

// auditRefusal writes down the first refusal of its kind, caller and second. Those
// that follow are counted in the next entry.
func (s *Server) auditRefusal(r *request, why refusal) {
	skipped, due := r.caller.tolls[why].add(r.start)
	if !due {
		return
	}
	r.entry.Skipped = skipped
	s.writeRefusal(&r.entry)
}

func (s *Server) writeRefusal(e *audit.Entry) {
	if s.cfg.Audit.Write(e) != nil {
		s.metrics.auditFailures.Inc()
	}
}

// settleTolls writes down the refusals that were counted before a time, and have
// not been followed by an entry.
func (s *Server) settleTolls(before time.Time) {
	for _, c := range s.callers.list() {
		for why := range c.tolls {
			if n := c.tolls[why].take(before); n > 0 {
				answer := refusals[why].answer
				s.writeRefusal(&audit.Entry{Time: s.now(time.Now()), Identity: string(c.identity), Operation: "admission", Outcome: audit.Refused,
					Status: answer.Status, Error: answer.Message, Skipped: n})
			}
		}
	}
}

// collectTolls settles, now and then until done is closed, and then once more.
func (s *Server) collectTolls(done <-chan struct{}) {
	tick := time.NewTicker(tollTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.settleTolls(time.Now().Add(-tollTime))
		case <-done:
			s.settleTolls(time.Now().Add(time.Hour))
			return
		}
	}
}
