package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/kms"
)

const unavailable = `{"message":"key store is unavailable"` + "\n}"

// closed is a gateway that is not there.
func closed(t *testing.T) *server {
	t.Helper()
	s := newServer(t, answer(200, version))
	s.Close()
	return s
}

func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestFailover(t *testing.T) {
	for name, first := range map[string]func(*testing.T) *server{
		"no one listens":           closed,
		"the connection is cut":    func(t *testing.T) *server { return newServer(t, hangUp) },
		"500":                      func(t *testing.T) *server { return newServer(t, answer(500, `{"message":"internal error"}`)) },
		"502":                      func(t *testing.T) *server { return newServer(t, answer(502, `{"message":"failed to read key"}`)) },
		"503":                      func(t *testing.T) *server { return newServer(t, answer(503, unavailable)) },
		"504 of a proxy, as HTML":  func(t *testing.T) *server { return newServer(t, answer(504, "<html>")) },
		"a truncated answer":       func(t *testing.T) *server { return newServer(t, truncated) },
		"an answer over the limit": func(t *testing.T) *server { return newServer(t, answer(200, strings.Repeat(" ", 1<<21)+version)) },
	} {
		t.Run(name+": the next gateway is asked, and stays preferred", func(t *testing.T) {
			bad, good := first(t), newServer(t, answer(200, version))
			c := newClient(t, nil, bad, good)
			for range 3 {
				v, err := c.Version(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if v.Version != "v1" {
					t.Errorf("version %q", v.Version)
				}
			}
			wantRequests(t, good, 3)
			if n := bad.requests.Load(); n > 1 {
				t.Errorf("the failed gateway was asked %d times", n)
			}
		})
	}
	for name, status := range map[string]int{"400": 400, "403": 403, "404": 404, "501": 501, "a redirect": 307} {
		t.Run(name+" is the answer of every gateway", func(t *testing.T) {
			first, second := newServer(t, answer(status, `{"message":"m"}`)), newServer(t, answer(200, version))
			c := newClient(t, nil, first, second)
			if _, err := c.Version(t.Context()); err == nil {
				t.Error("no error")
			}
			wantRequests(t, first, 1)
			wantRequests(t, second, 0)
		})
	}
}

func truncated(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	io.WriteString(w, version)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// flaky answers 503 n times, with Retry-After if that is not empty, then 200.
func flaky(n int, retryAfter string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if n--; n >= 0 {
			if retryAfter != "" {
				w.Header().Set("Retry-After", retryAfter)
			}
			answer(503, unavailable)(w, r)
			return
		}
		answer(200, version)(w, r)
	}
}

func TestRetryOf503(t *testing.T) {
	t.Run("once, after Retry-After", func(t *testing.T) {
		s := newServer(t, flaky(1, "1"))
		start := time.Now()
		if _, err := newClient(t, nil, s).Version(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < time.Second {
			t.Errorf("asked again after %v, want 1 s", d)
		}
		wantRequests(t, s, 2)
	})
	t.Run("after at most a second", func(t *testing.T) {
		s := newServer(t, flaky(1, "3600"))
		start := time.Now()
		if _, err := newClient(t, nil, s).Version(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("asked again after %v", d)
		}
	})
	t.Run("not twice", func(t *testing.T) {
		s := newServer(t, flaky(2, "0"))
		_, err := newClient(t, nil, s).Version(t.Context())
		if !errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("error %v, want kms.ErrUnavailable", err)
		}
		wantRequests(t, s, 2)
	})
	t.Run("all gateways, in both rounds", func(t *testing.T) {
		a, b := newServer(t, flaky(9, "0")), newServer(t, flaky(9, "0"))
		if _, err := newClient(t, nil, a, b).Version(t.Context()); !errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("error %v, want kms.ErrUnavailable", err)
		}
		wantRequests(t, a, 2)
		wantRequests(t, b, 2)
	})
	t.Run("the pause ends with the context, and the error says both", func(t *testing.T) {
		s := newServer(t, flaky(9, "1"))
		c := newClient(t, nil, s)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := c.Version(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, kms.ErrUnavailable) {
			t.Errorf("error %v, want the deadline and kms.ErrUnavailable", err)
		}
		wantRequests(t, s, 1)
	})
}

// A create that arrived twice would report that the key exists, of a key that
// it made itself.
func TestChangesAreSentOnce(t *testing.T) {
	changes := map[string]func(*client.Client, context.Context) error{
		"create": func(c *client.Client, ctx context.Context) error { return c.CreateKey(ctx, "k") },
		"import": func(c *client.Client, ctx context.Context) error { return c.ImportKey(ctx, "k", make([]byte, 32)) },
		"delete": func(c *client.Client, ctx context.Context) error { return c.DeleteKey(ctx, "k") },
	}
	for name, change := range changes {
		t.Run(name+": not again if it may have arrived", func(t *testing.T) {
			for _, handle := range []http.HandlerFunc{hangUp, flaky(1, "0"), answer(502, `{"message":"m"}`)} {
				bad, good := newServer(t, handle), newServer(t, answer(200, ""))
				if err := change(newClient(t, nil, bad, good), t.Context()); err == nil {
					t.Error("no error")
				}
				wantRequests(t, bad, 1)
				wantRequests(t, good, 0)
			}
		})
		t.Run(name+": elsewhere if no one listens", func(t *testing.T) {
			good := newServer(t, answer(200, ""))
			if err := change(newClient(t, nil, closed(t), good), t.Context()); err != nil {
				t.Error(err)
			}
			wantRequests(t, good, 1)
		})
	}
}

func TestAnswersAreBounded(t *testing.T) {
	endless := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		chunk := []byte(strings.Repeat(" ", 1<<16))
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}
	s := newServer(t, endless)
	c := newClient(t, nil, s)
	if _, err := c.Version(t.Context()); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("endless version: error %v", err)
	}
	if _, _, err := c.GenerateKey(t.Context(), "k", nil); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("endless data key: error %v", err)
	}
	if _, err := c.ListKeys(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("endless list: error %v", err)
	}

	failing := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		endless(w, r)
	})
	if err := newClient(t, nil, failing).Ready(t.Context()); err == nil {
		t.Error("endless error: no error")
	}
}

func TestUnknownServerIsRefused(t *testing.T) {
	s := newServer(t, answer(200, version))
	c := newClient(t, func(cfg *client.Config) { cfg.RootCAs = nil }, s)
	if _, err := c.Version(t.Context()); err == nil {
		t.Fatal("a server of an unknown authority was accepted")
	}
	wantRequests(t, s, 0)
	c = newClient(t, func(cfg *client.Config) { cfg.RootCAs, cfg.InsecureSkipVerify = nil, true }, s)
	if _, err := c.Version(t.Context()); err != nil {
		t.Errorf("with InsecureSkipVerify: %v", err)
	}
}
