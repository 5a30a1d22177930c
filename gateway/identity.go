package gateway

import (
	"bytes"
	"crypto/x509"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/policy"
)

// The answers to clients whose certificate identifies nobody, with the texts of
// KES.
var (
	errNoTLS         = &api.Error{Status: http.StatusBadRequest, Message: "insecure connection: TLS is required"}
	errNoCertificate = &api.Error{Status: http.StatusBadRequest, Message: "tls: client certificate is required"}
	errCertificates  = &api.Error{Status: http.StatusBadRequest, Message: "tls: received more than one client certificate"}
)

// The answers to clients whose certificate is not accepted.
var (
	errAuthority   = &api.Error{Status: http.StatusForbidden, Message: "not authorized: client certificate is not of an authority that is trusted"}
	errUsage       = &api.Error{Status: http.StatusForbidden, Message: "not authorized: client certificate is not for client authentication"}
	errExpired     = &api.Error{Status: http.StatusForbidden, Message: "not authorized: client certificate has expired"}
	errNotYetValid = &api.Error{Status: http.StatusForbidden, Message: "not authorized: client certificate is not yet valid"}
)

// A peer is the other end of a connection.
type peer struct {
	err        *api.Error // why it has no identity; the rest is empty then
	identity   policy.Identity
	leaf       *x509.Certificate
	selfSigned bool
}

// A connection holds what is found out of its peer at the first request, and its
// reads that have an end.
type connection struct {
	raw     *conn // nil: there is none
	once    sync.Once
	peer    peer
	subject atomic.Pointer[subject] // of the last request
	reads   timedReads
	seen    atomic.Pointer[seen]  // whose it is; nil: not known yet
	chain   atomic.Pointer[chain] // nil: its chain was not looked at since the handshake
}

// A chain is whether a peer's certificates lead to one of some authorities.
type chain struct {
	authorities *x509.CertPool
	trusted     bool
}

// A subject is what rules say of a connection's identity.
type subject struct {
	policy.Subject
	rules *policy.Rules
}

type connectionKey struct{}

// connectionOf returns the connection of a request. Under a listener of the
// caller's each request has one of its own.
func connectionOf(r *http.Request) *connection {
	if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
		return c
	}
	return new(connection)
}

// peerOf returns who made the request.
func (c *connection) peerOf(r *http.Request) *peer {
	c.once.Do(func() {
		if r.TLS == nil {
			c.peer.err = errNoTLS
			return
		}
		c.peer = newPeer(r.TLS.PeerCertificates)
	})
	return &c.peer
}

// subjectOf returns what rules say of the identity, which is that of the peer.
func (c *connection) subjectOf(id policy.Identity, rules *policy.Rules) policy.Subject {
	if s := c.subject.Load(); s != nil && s.rules == rules {
		return s.Subject
	}
	s := &subject{rules.Subject(id), rules}
	c.subject.Store(s)
	return s.Subject
}

// newPeer returns who presents chain in a handshake. As in KES, exactly one
// certificate of the chain is not that of an authority, and its key is the
// identity. Unlike in KES it has to be the first: it is the only one whose
// private key the peer has proved to have (RFC 8446, 4.4.2).
func newPeer(chain []*x509.Certificate) peer {
	leaves := 0
	for _, c := range chain {
		if !c.IsCA {
			leaves++
		}
	}
	switch {
	case leaves > 1:
		return peer{err: errCertificates}
	case leaves == 0 || chain[0].IsCA:
		return peer{err: errNoCertificate}
	}
	leaf := chain[0]
	return peer{identity: policy.IdentityOf(leaf.RawSubjectPublicKeyInfo), leaf: leaf, selfSigned: isSelfSigned(leaf)}
}

func isSelfSigned(c *x509.Certificate) bool {
	return bytes.Equal(c.RawIssuer, c.RawSubject) &&
		c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// identify sets the request's identity, or returns why there is none.
func (s *Server) identify(r *request) error {
	p := r.conn.peerOf(r.http)
	if p.err != nil {
		return p.err
	}
	r.identity = p.identity
	r.entry.Identity = string(p.identity)
	return nil
}

// authorize returns nil if the request may be done, by whom it is made.
func (s *Server) authorize(r *request) error {
	err := s.identify(r)
	if r.state.settings[r.route.action].open {
		return nil
	}
	r.entry.Outcome = audit.Denied
	if err != nil {
		s.metrics.refused.WithLabelValues("identity").Inc()
		return err
	}
	subject := r.conn.subjectOf(r.identity, r.state.Rules)
	r.entry.Policy = subject.Policy()
	if err := s.admit(r); err != nil {
		return err
	}
	if r.route.access == authorized && !subject.Allows(r.route.action, r.resource) {
		return api.ErrNotAllowed
	}
	r.entry.Outcome = ""
	return nil
}

// leadsTo reports whether the peer's certificates lead to one of the authorities, as
// its handshake asked for at the time: those may have changed since.
func (c *connection) leadsTo(authorities *x509.CertPool, peer []*x509.Certificate, now time.Time) bool {
	last := c.chain.Load()
	if last == nil && c.raw != nil {
		last = &chain{c.raw.authorities.Load(), true}
	}
	if last != nil && last.authorities == authorities {
		return last.trusted
	}
	next := &chain{authorities, true}
	if last == nil || last.authorities == nil || !last.trusted || !last.authorities.Equal(authorities) {
		next.trusted = verifies(peer, authorities, now)
	}
	c.chain.Store(next)
	return next.trusted
}

// verifies reports whether the first certificate leads to one of the authorities by
// way of the others, as package tls verifies it in a handshake.
func verifies(peer []*x509.Certificate, authorities *x509.CertPool, now time.Time) bool {
	others := x509.NewCertPool()
	for _, c := range peer[1:] {
		others.AddCert(c)
	}
	_, err := peer[0].Verify(x509.VerifyOptions{
		Roots: authorities, Intermediates: others, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}

// admit checks the client's certificate, at each request: a certificate can
// expire, and the rules and authorities can change, while its connection lasts.
func (s *Server) admit(r *request) error {
	p := r.conn.peerOf(r.http)
	if cas := r.state.ClientCAs; cas != nil && !r.conn.leadsTo(cas, r.http.TLS.PeerCertificates, r.entry.Time) {
		s.metrics.refused.WithLabelValues("authority").Inc()
		return errAuthority
	}
	if !mayAuthenticate(p.leaf, r.state.Clients.AnyUsage) {
		s.metrics.refused.WithLabelValues("usage").Inc()
		return errUsage
	}
	invalid := validity(p.leaf, r.entry.Time)
	switch {
	case invalid == nil:
		return nil
	case p.selfSigned && !r.state.Clients.RefuseExpired:
		s.acceptExpired(r)
		return nil
	}
	s.metrics.refused.WithLabelValues("validity").Inc()
	return invalid
}

// mayAuthenticate reports whether c is marked for the authentication of a TLS
// client (RFC 5280, 4.2.1.3 and 4.2.1.12). Unlike there, no mark, or that for
// any use, does not do.
func mayAuthenticate(c *x509.Certificate, anyUsage bool) bool {
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return false
	}
	return anyUsage || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
}

func validity(c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return errNotYetValid
	case now.After(c.NotAfter):
		return errExpired
	}
	return nil
}
