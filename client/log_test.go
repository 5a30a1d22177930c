package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/client"
)

// logLines streams the lines and then does end.
func logLines(end func(*http.Request), lines ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		for _, l := range lines {
			fmt.Fprintln(w, l)
			w.(http.Flusher).Flush()
		}
		if end != nil {
			end(r)
		}
	}
}

func untilGone(r *http.Request) { <-r.Context().Done() }

const auditLine = `{"time":"2026-01-02T03:04:05.000000006Z","request":{"ip":"127.0.0.1","path":"/v1/key/create/k","identity":"ab"},"response":{"code":200,"time":1500000}}`

func TestAuditLog(t *testing.T) {
	t.Run("delivers each line as it comes, for longer than Timeout, until the context ends", func(t *testing.T) {
		s := newServer(t, logLines(untilGone, auditLine, auditLine))
		c := newClient(t, func(cfg *client.Config) { cfg.Timeout = 50 * time.Millisecond }, s)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []api.AuditEvent
		for e, err := range c.AuditLog(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, e); len(got) == 2 {
				time.AfterFunc(200*time.Millisecond, cancel)
			}
		}
		if len(got) != 2 || ctx.Err() == nil {
			t.Fatalf("%d events, context error %v", len(got), ctx.Err())
		}
		want := api.AuditEvent{
			Time:     time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
			Request:  api.AuditRequest{IP: "127.0.0.1", Path: "/v1/key/create/k", Identity: "ab"},
			Response: api.AuditResponse{Code: 200, Time: 1500 * time.Microsecond},
		}
		if got[0] != want {
			t.Errorf("event %+v, want %+v", got[0], want)
		}
	})
	t.Run("leaving the loop ends the request", func(t *testing.T) {
		gone := make(chan struct{})
		s := newServer(t, logLines(func(r *http.Request) { untilGone(r); close(gone) }, auditLine))
		for range newClient(t, nil, s).AuditLog(t.Context()) {
			break
		}
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Error("the request is still open")
		}
	})
	t.Run("another gateway is asked if the first is down", func(t *testing.T) {
		good := newServer(t, logLines(nil, auditLine))
		n := 0
		for _, err := range newClient(t, nil, closed(t), newServer(t, answer(503, unavailable)), good).AuditLog(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 1 {
			t.Errorf("%d events, want 1", n)
		}
	})
}

func TestLogErrors(t *testing.T) {
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"a refusal":              {answer(403, `{"message":"not authorized: insufficient permissions"}`), "not authorized"},
		"a line that is no JSON": {logLines(nil, "nonsense"), "log stream"},
		"a line without end":     {logLines(nil, `{"message":"`+strings.Repeat("x", 2<<20)), "too long"},
		"a stream that breaks":   {logLines(func(*http.Request) { panic(http.ErrAbortHandler) }), "log stream"},
	} {
		s := newServer(t, test.handle)
		var errs []error
		for _, err := range newClient(t, nil, s).ErrorLog(t.Context()) {
			errs = append(errs, err)
		}
		if len(errs) != 1 || errs[0] == nil || !strings.Contains(errs[0].Error(), test.want) {
			t.Errorf("%s: errors %v, want one that says %q", name, errs, test.want)
		}
	}
	s := newServer(t, answer(403, `{"message":"not authorized: insufficient permissions"}`))
	for _, err := range newClient(t, nil, s).ErrorLog(t.Context()) {
		if !errors.Is(err, api.ErrNotAllowed) {
			t.Errorf("error %v, want api.ErrNotAllowed", err)
		}
	}
}
