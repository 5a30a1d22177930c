package gateway_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/policy"
)

const notAuthorized = "not authorized: insufficient permissions"

func TestAN01_WithoutACertificateTheHandshakeFails(t *testing.T) {
	w := newWorld(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := w.tlsConfig(nil)
		cfg.MaxVersion = version
		conn, err := tls.Dial("tcp", w.addr, cfg)
		if err == nil { // a client of TLS 1.3 has ended its part of the handshake before
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "certificate required") && !strings.Contains(err.Error(), "handshake failure") {
			t.Errorf("TLS %#x: error is %v", version, err)
		}
	}
	if n := len(w.entries()); n != 0 {
		t.Errorf("%d requests reached the door", n)
	}
	eventually(t, "the handshakes are counted", func() bool {
		return strings.Contains(w.client(w.admin).do("GET", "/metrics", "").body, "\nkeygate_tls_handshake_errors_total 2\n")
	})
}

func TestAN02_CertificatesOutsideTheirValidityAreRefused(t *testing.T) {
	w := newWorld(t)
	issued := w.ca.certify(t, w.app.PrivateKey.(ed25519.PrivateKey), nil) // for 24 h; same key, same identity
	c := w.client(issued)
	get := func(status int, message string) {
		t.Helper()
		if status == 200 {
			c.get("GET", "/v1/status", "", nil)
			return
		}
		c.fails("GET", "/v1/status", "", status, message)
	}
	// All on one connection.
	get(200, "")
	w.clock.Store(int64(23 * time.Hour))
	get(200, "")
	w.clock.Store(int64(25 * time.Hour))
	get(403, "not authorized: client certificate has expired")
	if e := w.last(); e["outcome"] != "denied" || e["identity"] != string(w.appID) {
		t.Errorf("audit entry is %v", e)
	}
	w.clock.Store(int64(-2 * time.Hour))
	get(403, "not authorized: client certificate is not yet valid")
	w.clock.Store(0)
	get(200, "")
}

func TestAN02_SelfSignedCertificatesOutsideTheirValidityAreAWarning(t *testing.T) {
	w := newWorld(t)
	w.clock.Store(int64(48 * time.Hour))
	for range 3 {
		w.client(w.app).get("GET", "/v1/status", "", nil)
		w.client(newCertificate(t, nil)).fails("GET", "/v1/status", "", 403, notAuthorized) // no warning about a stranger
	}
	if n := strings.Count(w.log.String(), "outside its validity was accepted"); n != 1 || !strings.Contains(w.log.String(), string(w.appID)) {
		t.Errorf("%d warnings: %s", n, w.log)
	}
	if m := w.client(w.admin).do("GET", "/metrics", "").body; !strings.Contains(m, "\nkeygate_client_certificates_expired_total 7\n") {
		t.Error("they are not counted")
	}
	w.reload(func(s *gateway.State) { s.Clients.RefuseExpired = true })
	w.client(w.app).fails("GET", "/v1/status", "", 403, "not authorized: client certificate has expired")
}

func TestAN03_CertificatesAreForClientAuthentication(t *testing.T) {
	w := newWorld(t)
	key := w.app.PrivateKey.(ed25519.PrivateKey)
	const refused = "not authorized: client certificate is not for client authentication"
	for name, test := range map[string]struct {
		change   func(*x509.Certificate)
		anyUsage bool // accepted if the configuration says so
	}{
		"serverAuth only":  {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, true},
		"no EKU":           {func(c *x509.Certificate) { c.ExtKeyUsage = nil }, true},
		"any EKU":          {func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, true},
		"keyUsage without": {func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }, false},
	} {
		t.Run("AN-03 "+name, func(t *testing.T) {
			for _, c := range []tls.Certificate{makeCertificate(t, key, nil, key, test.change), w.ca.certify(t, key, test.change)} {
				w.reload(func(s *gateway.State) { s.Clients.AnyUsage = false })
				w.client(c).in(t).fails("GET", "/v1/status", "", 403, refused)
				w.reload(func(s *gateway.State) { s.Clients.AnyUsage = true })
				if got := w.client(c).in(t).do("GET", "/v1/status", ""); (got.StatusCode == 200) != test.anyUsage {
					t.Errorf("with any_usage: %d %s", got.StatusCode, got.body)
				}
			}
		})
	}
	w.reload(func(s *gateway.State) { s.Clients.AnyUsage = false })
	w.client(makeCertificate(t, key, nil, key, func(c *x509.Certificate) {
		c.KeyUsage = 0
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})).get("GET", "/v1/status", "", nil)
}

func TestAN04_UnknownIdentitiesAreDeniedAndWrittenDown(t *testing.T) {
	w := newWorld(t, func(w *world) { w.state.ClientCAs = w.ca.pool() })
	stranger := w.ca.issue(t, nil)
	w.client(stranger).fails("POST", "/v1/key/create/app-1", "", 403, notAuthorized)
	e := w.last()
	if e["identity"] != string(identity(stranger)) || e["outcome"] != "denied" || e["status"] != 403.0 ||
		e["operation"] != "key:create" || e["key"] != "app-1" || !strings.HasPrefix(e["source"].(string), "127.0.0.1:") {
		t.Errorf("audit entry is %v", e)
	}
	if w.client(w.ca.certify(t, w.admin.PrivateKey.(ed25519.PrivateKey), nil)).do("GET", "/v1/key/describe/app-1", "").StatusCode != 404 {
		t.Error("the key was made")
	}
}

func TestAN05_AnIdentityIsItsKeyAndNothingElse(t *testing.T) {
	w := newWorld(t)
	names := func(c *x509.Certificate) {
		c.Subject, c.SerialNumber = w.app.Leaf.Subject, w.app.Leaf.SerialNumber
		c.DNSNames = []string{string(w.appID)}
	}
	for name, c := range map[string]tls.Certificate{
		"same names":                         newCertificate(t, names),
		"same names, of an authority":        w.ca.issue(t, names),
		"the identity for a name":            newCertificate(t, func(c *x509.Certificate) { c.Subject.CommonName = string(w.appID) }),
		"same subject, of another authority": newAuthority(t, "ca").issue(t, names),
	} {
		t.Run("AN-05 "+name, func(t *testing.T) { w.client(c).in(t).fails("GET", "/v1/status", "", 403, notAuthorized) })
	}
	// The same key under any issuer is the same identity, where no authority is asked for ...
	key := w.app.PrivateKey.(ed25519.PrivateKey)
	w.client(newAuthority(t, "other").certify(t, key, nil)).get("GET", "/v1/status", "", nil)
	// ... and where one is, only with its signature.
	w.reload(func(s *gateway.State) { s.ClientCAs = w.ca.pool() })
	w.client(w.ca.certify(t, key, nil)).get("GET", "/v1/status", "", nil)
	for _, c := range []tls.Certificate{newAuthority(t, "ca").certify(t, key, nil), w.app} {
		if resp, err := w.client(c).http.Get("https://" + w.addr + "/v1/status"); err == nil {
			resp.Body.Close()
			t.Errorf("a certificate of another authority passed the handshake: %s", resp.Status)
		}
	}
}

func TestAN06_OnlyTheProvedLeafIsAnIdentity(t *testing.T) {
	w := newWorld(t)
	attacker := newCertificate(t, nil)
	attackerCA := newAuthority(t, "attacker")
	var intermediates []tls.Certificate
	for range 50 {
		intermediates = append(intermediates, w.ca.Certificate)
	}
	for name, test := range map[string]struct {
		chain   tls.Certificate
		status  int
		message string
	}{
		"the victim's leaf second":                      {with(attacker, w.app), 400, "tls: received more than one client certificate"},
		"CA:TRUE leaf":                                  {attackerCA.Certificate, 400, "tls: client certificate is required"},
		"CA:TRUE leaf, then the victim's":               {with(attackerCA.Certificate, w.app), 400, "tls: client certificate is required"},
		"CA:TRUE leaf, then the victim's and its own":   {with(attackerCA.Certificate, w.app, attacker), 400, "tls: received more than one client certificate"},
		"two leaves of one key":                         {with(w.app, w.app), 400, "tls: received more than one client certificate"},
		"many authorities behind the victim's attacker": {with(attacker, intermediates...), 403, notAuthorized},
	} {
		t.Run("AN-06 "+name, func(t *testing.T) {
			w.client(test.chain).in(t).fails("GET", "/v1/status", "", test.status, test.message)
			if e := w.last(); e["identity"] == string(w.appID) || e["outcome"] != "denied" {
				t.Errorf("audit entry is %v", e)
			}
		})
	}
	w.client(with(w.app, intermediates...)).get("GET", "/v1/status", "", nil)
}

func TestAN19_WhatAnswersWithoutACertificate(t *testing.T) {
	public := []string{"/version", "/v1/ready", "/v1/status", "/v1/metrics", "/metrics", "/v1/api"}
	w := newWorld(t, func(w *world) { w.state.Routes = map[string]gateway.RouteConfig{"/v1/ready": {SkipAuth: true}} })
	open := func() (paths []string) {
		nobody := w.clientOf(nil, true)
		for _, a := range policy.Actions() {
			if a == policy.BulkDecrypt || a == policy.ReadAuditLog || a == policy.ReadErrorLog {
				continue // no route yet; streams are asked below
			}
			for _, method := range []string{"GET", "PUT", "DELETE"} {
				switch got := nobody.do(method, a.Path(), "{}"); {
				case got.StatusCode == http.StatusOK:
					paths = append(paths, a.Path())
				case got.StatusCode != http.StatusMethodNotAllowed:
					isError(t, method+" "+a.Path(), got, 400, "tls: client certificate is required")
				}
			}
		}
		for _, path := range []string{"/v1/log/audit", "/v1/log/error"} {
			nobody.fails("GET", path, "", 400, "tls: client certificate is required")
		}
		return paths
	}
	// /version asks nobody for an identity, once the handshake does not.
	if got := strings.Join(open(), " "); got != "/v1/ready /version" {
		t.Errorf("open are %s", got)
	}
	w.reload(func(s *gateway.State) {
		s.Routes = make(map[string]gateway.RouteConfig)
		for _, path := range public {
			s.Routes[path] = gateway.RouteConfig{SkipAuth: true}
		}
	})
	if got := open(); len(got) != len(public) {
		t.Errorf("open are %s", got)
	}
	for _, a := range policy.Actions() {
		err := gateway.CheckRoute(a.Path(), gateway.RouteConfig{SkipAuth: true})
		may := false
		for _, path := range public {
			may = may || path == a.Path()
		}
		if may != (err == nil) {
			t.Errorf("skip_auth for %s: %v", a.Path(), err)
		}
	}
	before := w.state
	w.state.Routes = map[string]gateway.RouteConfig{"/v1/key/decrypt/": {SkipAuth: true}}
	if w.server.Reload(w.state) == nil {
		t.Error("decrypt can be opened to everyone")
	}
	w.state = before
	w.reload(func(s *gateway.State) { s.Routes = nil })
	if _, err := w.clientOf(nil, true).http.Get("https://" + w.addr + "/version"); err == nil {
		t.Error("a handshake without a certificate passes after the last open route was closed")
	}
}

func TestAPIKeyCertificatesAreAccepted(t *testing.T) {
	// As KES clients make them: self-signed, without CA, for an Ed25519 key.
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	w := newWorld(t)
	c := makeCertificate(t, key, nil, key, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(90 * 24 * time.Hour) })
	w.appID = identity(c)
	w.reload(func(s *gateway.State) { s.Rules = w.rules([]string{"/v1/status"}, nil) })
	w.client(c).get("GET", "/v1/status", "", nil)
}

// An authority that is no longer trusted ends what its certificates can do, on open
// connections too.
func TestAnAuthorityThatIsTakenAwayCountsOnOpenConnections(t *testing.T) {
	w := newWorld(t, func(w *world) { w.state.ClientCAs = w.ca.pool() })
	app := w.ca.issue(t, nil)
	w.appID = identity(app)
	w.reload(setRules(w, []string{"/v1/status"}, nil))
	c := w.client(app)
	c.get("GET", "/v1/status", "", nil)
	w.reload(func(s *gateway.State) { s.ClientCAs = newAuthority(t, "other").pool() })
	const untrusted = "not authorized: client certificate is not of an authority that is trusted"
	for range 2 {
		c.fails("GET", "/v1/status", "", 403, untrusted)
	}
	w.reload(func(s *gateway.State) { s.ClientCAs = w.ca.pool() })
	c.get("GET", "/v1/status", "", nil)
	// Where none was asked for in the handshake, one is from now on.
	w.reload(func(s *gateway.State) { s.ClientCAs = nil })
	own := w.client(newCertificate(t, nil))
	own.fails("GET", "/v1/status", "", 403, notAuthorized)
	w.reload(func(s *gateway.State) { s.ClientCAs = w.ca.pool() })
	own.fails("GET", "/v1/status", "", 403, untrusted)
}
