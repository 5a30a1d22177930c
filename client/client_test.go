package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/client"
)

// A server is a TLS server that wants a client certificate and counts requests.
type server struct {
	*httptest.Server
	requests atomic.Int64
}

func newServer(t *testing.T, handle http.HandlerFunc) *server {
	t.Helper()
	s := new(server)
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		handle(w, r)
	}))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		w.Write([]byte(body))
	}
}

const version = `{"version":"v1","commit":"abc"}` + "\n"

// newClient returns a client of the servers, with an identity of its own. edit
// may change its settings.
func newClient(t *testing.T, edit func(*client.Config), servers ...*server) *client.Client {
	t.Helper()
	key, err := client.GenerateAPIKey()
	if err != nil {
		t.Fatal(err)
	}
	cfg := client.Config{GetCertificate: key.Certificate, RootCAs: x509.NewCertPool()}
	for _, s := range servers {
		cfg.Endpoints = append(cfg.Endpoints, s.URL)
		cfg.RootCAs.AddCert(s.Certificate())
	}
	if edit != nil {
		edit(&cfg)
	}
	c, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func wantRequests(t *testing.T, s *server, want int64) {
	t.Helper()
	if got := s.requests.Load(); got != want {
		t.Errorf("the server got %d requests, want %d", got, want)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]client.Config{
		"no endpoint":        {},
		"plain HTTP":         {Endpoints: []string{"http://localhost:7373"}},
		"a path":             {Endpoints: []string{"https://localhost:7373/v1"}},
		"a user":             {Endpoints: []string{"https://me:pw@localhost"}},
		"an empty endpoint":  {Endpoints: []string{""}},
		"a port alone":       {Endpoints: []string{":7373"}},
		"a negative timeout": {Endpoints: []string{"localhost"}, Timeout: -1},
	} {
		if _, err := client.New(cfg); err == nil {
			t.Errorf("%s: New returned no error", name)
		}
	}
	for _, endpoint := range []string{"localhost", "localhost:1", "https://kms.example.net", "https://[::1]:7373/", "[::1]"} {
		if _, err := client.New(client.Config{Endpoints: []string{endpoint}}); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestOneConnectionServesMany(t *testing.T) {
	remotes := make(chan string, 10)
	s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the request came over %s", r.Proto)
		}
		remotes <- r.RemoteAddr
		answer(200, version)(w, r)
	})
	c := newClient(t, nil, s)
	for range 10 {
		if _, err := c.Version(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	first := <-remotes
	for range 9 {
		if r := <-remotes; r != first {
			t.Fatalf("requests came from %s and from %s: two connections", first, r)
		}
	}
}

func TestDeadline(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

	t.Run("an attempt ends after Timeout and the next gateway answers", func(t *testing.T) {
		slow, good := newServer(t, hang), newServer(t, answer(200, version))
		c := newClient(t, func(cfg *client.Config) { cfg.Timeout = 100 * time.Millisecond }, slow, good)
		if _, err := c.Version(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("the caller's context ends all attempts", func(t *testing.T) {
		slow, good := newServer(t, hang), newServer(t, answer(200, version))
		c := newClient(t, nil, slow, good)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.Version(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("error %v, want that of the context", err)
		}
		wantRequests(t, good, 0)
	})
}
