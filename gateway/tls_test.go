package gateway_test

import (
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/keygate/keygate/gateway"
)

// handshake connects and asks for the version. It returns the state of the
// connection, and the first error.
func (w *world) handshake(cfg *tls.Config) (tls.ConnectionState, error) {
	conn, err := tls.Dial("tcp", w.addr, cfg)
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return tls.ConnectionState{}, err
	}
	if _, err := io.ReadAll(conn); err != nil {
		return tls.ConnectionState{}, err
	}
	return conn.ConnectionState(), nil
}

func TestAN09_NoSessionIsResumed(t *testing.T) {
	w := newWorld(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := w.tlsConfig(&w.app)
		cfg.MinVersion, cfg.MaxVersion = version, version
		tickets := new(tickets)
		cfg.ClientSessionCache = tickets
		for range 3 {
			state, err := w.handshake(cfg)
			ok(t, err)
			if state.DidResume || state.Version != version {
				t.Errorf("TLS %#x: resumed %v", state.Version, state.DidResume)
			}
		}
		if tickets.n != 0 {
			t.Errorf("TLS %#x: the server gave %d tickets", version, tickets.n)
		}
		// So a change of authorities holds for the next connection, whatever the client kept.
		w.reload(func(s *gateway.State) { s.ClientCAs = newAuthority(t, "other").pool() })
		if _, err := w.handshake(cfg); err == nil {
			t.Errorf("TLS %#x: a client of no authority is let in", version)
		}
		w.reload(func(s *gateway.State) { s.ClientCAs = nil })
	}
}

// tickets is a session cache that counts what a server gives.
type tickets struct{ n int }

func (*tickets) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (c *tickets) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		c.n++
	}
}

func TestAN13_OnlyGoodProtocolsAndCiphers(t *testing.T) {
	w := newWorld(t)
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		cfg := w.tlsConfig(&w.app)
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, version
		if _, err := w.handshake(cfg); err == nil {
			t.Errorf("TLS %#x is spoken", version)
		}
	}
	w.onlyGoodSuites("_ECDSA_") // those of Ed25519, too
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	ok(t, err)
	w.reload(func(s *gateway.State) { s.Certificate = w.ca.certify(t, key, asServer) })
	w.onlyGoodSuites("_RSA_")
	state, err := w.handshake(w.tlsConfig(&w.app))
	ok(t, err)
	if state.Version != tls.VersionTLS13 {
		t.Errorf("by default TLS %#x is spoken", state.Version)
	}
}

// onlyGoodSuites checks that the server speaks only those suites of TLS 1.2 that
// are good, of the kind that is for its key.
func (w *world) onlyGoodSuites(kind string) {
	w.t.Helper()
	good := 0
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if suite.SupportedVersions[0] == tls.VersionTLS13 {
			continue // all are good, and cannot be chosen
		}
		cfg := w.tlsConfig(&w.app)
		cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, []uint16{suite.ID}
		_, err := w.handshake(cfg)
		aead := strings.HasPrefix(suite.Name, "TLS_ECDHE"+kind) && (strings.Contains(suite.Name, "_GCM_") || strings.Contains(suite.Name, "_CHACHA20_"))
		want := aead && !(fips140.Enabled() && strings.Contains(suite.Name, "_CHACHA20_"))
		if (err == nil) != want {
			w.t.Errorf("%s: %v", suite.Name, err)
		}
		if err == nil {
			good++
		}
	}
	if good < 2 {
		w.t.Errorf("%d good suites of TLS 1.2", good)
	}
}

func TestAN13_PlaintextIsNotServed(t *testing.T) {
	w := newWorld(t)
	conn, err := net.Dial("tcp", w.addr)
	ok(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	ok(t, err)
	b, _ := io.ReadAll(conn)
	if strings.Contains(string(b), "v0.0.0-test") || len(w.entries()) != 0 {
		t.Errorf("plaintext was answered: %q", b)
	}
}
