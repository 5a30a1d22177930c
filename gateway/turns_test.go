package gateway

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/policy"
)

// hold takes all turns of an identity.
func hold(of *turns) []*turning {
	var all []*turning
	for range of.free {
		one := new(turning)
		one.belong(of)
		one.take()
		all = append(all, one)
	}
	return all
}

func (t *turns) left() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.free
}

func TestConnectionsOfOneIdentityTakeTurns(t *testing.T) {
	for _, by := range []string{"pipe", "nothing"} {
		t.Run("passed on by "+by, func(t *testing.T) {
			stile := new(turnstile)
			if by == "pipe" {
				stop, err := stile.serve()
				if err != nil {
					t.Fatal(err)
				}
				defer stop()
			}
			testTurns(t, stile.turns(), stile.turns())
		})
	}
}

func TestWhoWaitsForATurnGoesOnWhenTheServerStops(t *testing.T) {
	stile := new(turnstile)
	stop, err := stile.serve()
	if err != nil {
		t.Fatal(err)
	}
	of := stile.turns()
	held := hold(of)
	done := make(chan struct{})
	for range 100 {
		go func() {
			one := new(turning)
			one.belong(of)
			one.take()
			one.give()
			done <- struct{}{}
		}()
	}
	go stop()
	for _, one := range held {
		one.give()
	}
	for range 100 {
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("one waits for ever")
		}
	}
	<-time.After(10 * time.Millisecond)
	if of.left() != len(held) {
		t.Errorf("%d of %d turns are free", of.left(), len(held))
	}
}

func testTurns(t *testing.T, busy, other *turns) {
	held := hold(busy)
	all := len(held)
	server, client, _ := pair(t)
	turn := &server.(*conn).turning
	read := make(chan error, 1)
	b := make([]byte, 8)
	next := func() {
		client.Write([]byte("request"))
		go func() { _, err := server.Read(b); read <- err }()
	}
	comes := func(what string, want bool) {
		t.Helper()
		select {
		case err := <-read:
			if !want || err != nil {
				t.Errorf("%s: the read is over, %v", what, err)
			}
		case <-time.After(100 * time.Millisecond):
			if want {
				t.Errorf("%s: the read waits", what)
			}
		}
	}
	next()
	comes("a connection of nobody yet", true)
	turn.belong(other)
	next()
	comes("another identity", true)
	if other.left() != all-1 {
		t.Errorf("%d turns are free while a request is handled", other.left())
	}
	turn.belong(busy)
	next()
	comes("one turn too many", false)
	if other.left() != all {
		t.Errorf("%d turns are free while the next request is waited for", other.left())
	}
	held[0].give()
	comes("when another reads again", true)
	if busy.left() != 0 {
		t.Errorf("%d turns are free", busy.left())
	}
	server.Close()
	server.Close()
	if busy.left() != 1 {
		t.Errorf("%d turns are free after the end of a connection", busy.left())
	}
	turn.take() // a read that ended as the connection was closed
	if busy.left() != 1 {
		t.Error("a closed connection holds a turn")
	}
}

// A request can wait, for the root of trust or as long as a log is followed, with a
// body that nobody reads.
func TestAHandlerKeepsNoTurn(t *testing.T) {
	log, err := audit.Open(audit.Config{File: filepath.Join(t.TempDir(), "audit.log")})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s := &Server{cfg: Config{Audit: log, ErrorLog: NewErrorLog(io.Discard, slog.LevelInfo)}, ids: newRequestIDs(), routes: routes(), callers: newCallers(LimitsConfig{})}
	s.metrics = newMetrics(s)
	s.state.Store(&state{settings: map[policy.Action]setting{policy.Version: {open: true, timeout: time.Minute}}})
	nc, _, _ := pair(t)
	raw := nc.(*conn)
	of := s.callers.strangers.turns
	all := of.left()
	raw.turning.belong(of)
	raw.turning.take()
	ran := false
	rt := &route{action: policy.Version, method: http.MethodGet, public: true, run: func(*Server, *request) (any, error) {
		ran = true
		if of.left() != all {
			t.Errorf("%d of %d turns are free in a handler", of.left(), all)
		}
		return nil, nil
	}}
	hr := httptest.NewRequest(http.MethodGet, "/version", nil)
	hr = hr.WithContext(context.WithValue(hr.Context(), connectionKey{}, &connection{raw: raw}))
	s.serve(httptest.NewRecorder(), hr, rt, "")
	if !ran {
		t.Error("the handler did not run")
	}
}
