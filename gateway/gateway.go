// Package gateway is the HTTPS door: a REST API, compatible with that of KES,
// over a kms.KMS. Each request goes one way: identify, authorize, decode, run,
// audit, answer.
package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keygate/keygate/admission"
	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/kms"
)

// Config is what a Server keeps for its life. KMS, Audit and ErrorLog are
// required, and stay the caller's to close after Serve has returned.
type Config struct {
	KMS      *kms.KMS
	Audit    *audit.Log
	ErrorLog *ErrorLog

	Version string // of the gateway, as it is told to clients
	Commit  string
	Root    string // the kind of its root of trust, as in the configuration

	// Figures are more metrics of /metrics: those of the root of trust.
	Figures []prometheus.Collector

	// Attest returns what the tokens of the root of trust say of their keys, signed, for
	// a nonce of up to maxNonce bytes. Nil: the root of trust has no such thing.
	Attest func(ctx context.Context, nonce []byte) (*api.AttestResponse, error)

	// Limits bounds what clients can ask for at a time.
	Limits LimitsConfig

	// Now is the clock, for tests. Nil means time.Now.
	Now func() time.Time
}

// A Server serves the API. It is safe for concurrent use.
type Server struct {
	cfg     Config
	logger  *slog.Logger
	started time.Time
	routes  []route
	echo    *echo.Echo
	state   atomic.Pointer[state]
	metrics *metrics
	ids     *requestIDs
	health  health
	expired warnings
	stop    chan struct{} // closed when the server begins to drain

	conns       *conns
	connections connections

	callers  *callers
	listener atomic.Pointer[admission.Listener] // nil before Serve
}

// drainTime is how long requests may take to end after Serve is told to.
const drainTime = 10 * time.Second

// New returns a server with a first state. It does no I/O.
func New(cfg Config, first State) (*Server, error) {
	if cfg.KMS == nil || cfg.Audit == nil || cfg.ErrorLog == nil {
		return nil, errors.New("gateway: KMS, audit log and error log are required")
	}
	if err := cfg.Limits.Check(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, logger: cfg.ErrorLog.Logger(), routes: routes(), ids: newRequestIDs(), conns: newConns(), stop: make(chan struct{})}
	s.started = s.now(time.Now()).UTC()
	s.callers = newCallers(cfg.Limits)
	s.health.kms = cfg.KMS
	s.metrics = newMetrics(s)
	s.echo = s.router()
	if err := s.Reload(first); err != nil {
		return nil, err
	}
	return s, nil
}

// now returns the time of the server's clock. now is that of the machine's, which is
// the same but in tests.
func (s *Server) now(now time.Time) time.Time {
	if s.cfg.Now == nil {
		return now
	}
	return s.cfg.Now()
}

// Reload replaces the state: all of it, or, with an error, nothing. Requests
// that have begun end under the state that they began with; those that come
// later on a connection that is open already are under the new one.
func (s *Server) Reload(next State) error {
	st, err := s.compile(next)
	if err != nil {
		return err
	}
	s.state.Store(st)
	return nil
}

// Serve accepts connections from ln until ctx ends. Then it accepts no more,
// ends the log streams, lets other requests end for up to ten seconds, and
// returns nil, or the error that says that requests were cut off. It closes ln.
// It must be called at most once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	srv := s.httpServer()
	endTurns, err := s.callers.turnstile.serve()
	if err != nil {
		ln.Close()
		return err
	}
	defer endTurns()
	ended := make(chan struct{})
	s.conns.sweep(time.Now())
	failed := make(chan error, 1)
	go func() { failed <- srv.ServeTLS(s.listen(ln), "", "") }()
	var beside sync.WaitGroup
	beside.Go(func() { s.sweepUntil(ended) })
	beside.Go(func() { s.collectTolls(ended) })
	defer beside.Wait()
	defer close(ended)
	select {
	case err := <-failed:
		close(s.stop)
		srv.Close()
		return err
	case <-ctx.Done():
	}
	close(s.stop)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err = srv.Shutdown(drain)
	if err != nil {
		srv.Close()
		err = errors.New("gateway: requests did not end in time and were cut off")
	}
	<-failed
	return err
}

// sweepUntil ends what takes too long on a connection or stream, until stop is
// closed.
func (s *Server) sweepUntil(stop <-chan struct{}) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case now := <-tick.C:
			s.conns.sweep(now)
			s.connections.sweep(now)
		}
	}
}

// Handler returns the door itself, for a listener of the caller's. Without TLS
// under it, each request is one without a client certificate.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Routes, rules and names are those of the decoded path, and of no other.
		r.URL.RawPath = ""
		if malformed(r) {
			s.serve(w, r, nil, "")
			return
		}
		s.echo.ServeHTTP(w, r)
	})
}

// malformed reports whether an HTTP/2 request breaks rules that net/http does not
// check: its path begins with a slash, and a host header names what :authority does
// (RFC 9113, 8.3.1).
func malformed(r *http.Request) bool {
	if r.ProtoMajor < 2 {
		return false
	}
	other := func(host string) bool { return !strings.EqualFold(host, r.Host) }
	return !strings.HasPrefix(r.RequestURI, "/") || slices.ContainsFunc(r.Header["Host"], other)
}

// router registers each route of the table, and nothing else.
func (s *Server) router() *echo.Echo {
	e := echo.New()
	for i := range s.routes {
		rt := &s.routes[i]
		for _, path := range rt.patterns() {
			h := s.handle(rt)
			for _, method := range rt.methods() {
				e.Add(method, path, h).Name = rt.action.String()
			}
			e.RouteNotFound(path, h).Name = rt.action.String() // other methods
		}
	}
	e.HTTPErrorHandler = func(_ error, c echo.Context) { s.serve(c.Response().Writer, c.Request(), nil, "") }
	return e
}

func (s *Server) handle(rt *route) echo.HandlerFunc {
	return func(c echo.Context) error {
		s.serve(c.Response().Writer, c.Request(), rt, c.Param("*"))
		return nil
	}
}
