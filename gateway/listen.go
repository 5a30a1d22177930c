package gateway

import (
	"context"
	"crypto/tls"
	"hash/maphash"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate/keygate/admission"
)

// handshakes bounds the TLS handshakes that are worked on at a time: each costs as
// much CPU as some twenty requests, and anyone can ask for one. Sources take
// turns. A client that is waited for gives its place on, as in every gate, and has
// headerTimeout in all.
type handshakes struct {
	gate  *admission.Gate
	seed  maphash.Seed
	flows *[256]admission.Flow // of sources, by a hash that nobody else knows
	count *atomic.Uint64       // handshakes that were refused
}

// handshakeWait is how long one waits to begin, handshakePending how many have
// begun and wait for their client.
const (
	handshakeWait    = time.Second
	handshakePending = 1 << 16
)

func newHandshakes(running int) handshakes {
	return handshakes{
		gate: admission.NewGate(admission.Limits{
			Running: running, Share: max(running/2, 1), Queue: 1024, Wait: handshakeWait, Patience: patience, Parked: handshakePending}),
		seed: maphash.MakeSeed(), flows: new([256]admission.Flow), count: new(atomic.Uint64),
	}
}

// begin waits until a handshake may go on, which it does until its context ends.
func (h *handshakes) begin(hello *tls.ClientHelloInfo) error {
	t := new(admission.Ticket)
	if err := h.gate.Enter(hello.Context(), h.flow(hello.Conn.RemoteAddr()), t, time.Now()); err != nil {
		h.count.Add(1)
		return err
	}
	context.AfterFunc(hello.Context(), func() { h.gate.Leave(t) })
	return nil
}

func (h *handshakes) flow(source net.Addr) *admission.Flow {
	host, _, err := net.SplitHostPort(source.String())
	if err != nil {
		host = source.String()
	}
	return &h.flows[maphash.String(h.seed, host)%uint64(len(h.flows))]
}

// listen returns ln with the limits of connections, and deadlines that cost little.
func (s *Server) listen(ln net.Listener) net.Listener {
	bounded := admission.NewListener(ln, s.callers.limits.Connections, s.callers.limits.Source)
	s.listener.Store(bounded)
	return listener{bounded, s.conns}
}

// limitFigures are what the limits have to say.
func (s *Server) limitFigures() []prometheus.Collector {
	figure := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	load := func(of func(running, queued, parked int) int) func() int {
		return func() int { return of(s.callers.work.Load()) }
	}
	counts := func(of func(open int, full, crowded, failed uint64) uint64) func() uint64 {
		return func() uint64 {
			if l := s.listener.Load(); l != nil {
				return of(l.Counts())
			}
			return 0
		}
	}
	open := counts(func(open int, _, _, _ uint64) uint64 { return uint64(open) })
	return []prometheus.Collector{
		figure("keygate_admission_running", "Requests that have a place among those that are worked on.", load(func(r, _, _ int) int { return r })),
		figure("keygate_admission_queued", "Requests that wait to begin.", load(func(_, q, _ int) int { return q })),
		figure("keygate_admission_pending", "Requests that wait for a body, the key store or the root of trust, and have given their place to others.", load(func(_, _, p int) int { return p })),
		figure("keygate_connections", "Open connections.", func() int { return int(open()) }),
		counterFunc("keygate_connections_refused_total", "Connections that were closed at once: there were limits.connections.", counts(func(_ int, full, _, _ uint64) uint64 { return full })),
		counterFunc("keygate_connections_crowded_total", "Connections that were closed at once: there were limits.connections_per_source from their address.", counts(func(_ int, _, crowded, _ uint64) uint64 { return crowded })),
		counterFunc("keygate_accept_errors_total", "Connections that could not be accepted: no file descriptor was left, or the client was gone.", counts(func(_ int, _, _, failed uint64) uint64 { return failed })),
		counterFunc("keygate_tls_handshakes_refused_total", "TLS handshakes that could not begin in time: limits.handshakes were worked on.", s.callers.handshakes.count.Load),
		counterFunc("keygate_audit_skipped_total", "Audit entries of polls that were left out, as audit.polls says.", func() uint64 { return s.cfg.Audit.Stats().Skipped }),
	}
}
