package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keygate/keygate/policy"
)

// State is what can change while a Server runs. A Server does not change what it
// is given, and neither may the caller.
type State struct {
	Rules       *policy.Rules
	Certificate tls.Certificate // of the server

	// ClientCAs, if not nil, are the authorities that client certificates have
	// to lead to. Otherwise a client is known by its key alone.
	ClientCAs *x509.CertPool
	Clients   ClientsConfig
	// Routes holds settings of routes by their paths, with or without the slash
	// at the end.
	Routes map[string]RouteConfig
}

// A state is a checked State. It is immutable.
type state struct {
	State
	tls      *tls.Config
	settings map[policy.Action]setting
}

// A setting is what configuration says of a route.
type setting struct {
	open    bool          // no identity is asked for
	timeout time.Duration // zero: none
}

// compile checks next.
func (s *Server) compile(next State) (*state, error) {
	if next.Rules == nil {
		return nil, errors.New("gateway: no rules")
	}
	if len(next.Certificate.Certificate) == 0 || next.Certificate.PrivateKey == nil {
		return nil, errors.New("gateway: no server certificate")
	}
	st := &state{State: next, settings: make(map[policy.Action]setting)}
	for i := range s.routes {
		rt := &s.routes[i]
		st.settings[rt.action] = setting{open: rt.access == anyone, timeout: rt.timeout}
	}
	skipsAuth := false
	for _, path := range slices.Sorted(maps.Keys(next.Routes)) {
		cfg := next.Routes[path]
		if err := CheckRoute(path, cfg); err != nil {
			return nil, err
		}
		st.configure(routeOf(s.routes, path).action, cfg)
		skipsAuth = skipsAuth || cfg.SkipAuth
	}
	st.tls = s.tlsConfig(st, skipsAuth)
	return st, nil
}

func (st *state) configure(a policy.Action, cfg RouteConfig) {
	set := st.settings[a]
	set.open = set.open || cfg.SkipAuth
	if cfg.Timeout > 0 {
		set.timeout = cfg.Timeout
	}
	st.settings[a] = set
}

// CheckRoute returns why cfg cannot be the configuration of the route with that
// path, or nil if it can. A slash at the end of the path makes no difference.
func CheckRoute(path string, cfg RouteConfig) error {
	rt := routeOf(routes(), path)
	switch {
	case rt == nil:
		return fmt.Errorf("gateway: api: %q is not the path of a route", path)
	case cfg.SkipAuth && !rt.public:
		return fmt.Errorf("gateway: api: %s: skip_auth is not possible for this route", path)
	case cfg.Timeout < 0:
		return fmt.Errorf("gateway: api: %s: timeout %v is negative", path, cfg.Timeout)
	}
	return nil
}

func routeOf(table []route, path string) *route {
	path = strings.TrimSuffix(path, "/")
	i := slices.IndexFunc(table, func(rt route) bool { return strings.TrimSuffix(rt.action.Path(), "/") == path })
	if i < 0 {
		return nil
	}
	return &table[i]
}
