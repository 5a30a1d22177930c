package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/gateway"
)

func TestTheErrorStreamDelivers(t *testing.T) {
	w := newWorld(t)
	admin := w.client(w.admin)
	for _, c := range []*client{admin, w.clientOf(&w.admin, false)} {
		w.root.down.Store(false)
		lines := c.follow("/v1/log/error")
		w.client(w.app).get("POST", fmt.Sprintf("/v1/key/create/app-%p", c), "", nil)
		w.root.down.Store(true)
		id := w.client(w.app).do("POST", fmt.Sprintf("/v1/key/generate/app-%p", c), "").Header.Get("X-Request-Id")
		line := await(t, lines, id)
		var event struct{ Message string }
		ok(t, json.Unmarshal([]byte(line), &event))
		if !json.Valid([]byte(event.Message)) || !strings.Contains(event.Message, `"level":"ERROR"`) || !strings.Contains(w.log.String(), event.Message+"\n") {
			t.Errorf("event is %s", line)
		}
	}
}

func TestStreamsEndWhenTheServerStops(t *testing.T) {
	w := newWorld(t)
	var streams []<-chan string
	for _, path := range []string{"/v1/log/audit", "/v1/log/error"} {
		streams = append(streams, w.client(w.admin).follow(path), w.clientOf(&w.admin, false).follow(path))
	}
	start := time.Now()
	w.stop()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, lines := range streams {
		for range lines { // to its end
		}
	}
}

func TestASlowFollowerHoldsNobodyUp(t *testing.T) {
	w := newWorld(t)
	conn := w.dial(w.admin)
	_, err := io.WriteString(conn, "GET /v1/log/audit HTTP/1.1\r\nHost: x\r\n\r\n")
	ok(t, err)
	c := w.client(w.app) // and nothing is read from conn
	long := strings.Repeat("a", 150)
	start := time.Now()
	for range 2000 {
		if a := c.do("GET", "/v1/nothing/"+long, ""); a.StatusCode != http.StatusNotImplemented {
			t.Fatalf("answered %d", a.StatusCode)
		}
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("2000 requests took %v", took)
	}
	if n := len(w.entries()); n < 2000 {
		t.Errorf("%d entries", n)
	}
}

func TestADrainLetsRequestsEnd(t *testing.T) {
	w := newWorld(t)
	c := w.clientOf(&w.app, false)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	body, send := io.Pipe()
	answered := make(chan answer, 1)
	go func() { answered <- c.send("POST", "/v1/key/generate/app-1", body) }()
	_, err := io.WriteString(send, `{"context":`) // it has begun
	ok(t, err)
	eventually(t, "the request is being served", func() bool {
		return strings.Contains(w.client(w.admin).do("GET", "/metrics", "").body, "\nkeygate_requests_active 2\n")
	})
	stopped := make(chan struct{})
	go func() { w.stop(); close(stopped) }()
	eventually(t, "new connections are refused", func() bool {
		resp, err := w.client(w.app).http.Get("https://" + w.addr + "/version")
		if err == nil {
			resp.Body.Close()
		}
		return err != nil
	})
	_, err = io.WriteString(send, `"e30="}`)
	ok(t, err)
	ok(t, send.Close())
	if a := <-answered; a.StatusCode != 200 {
		t.Errorf("answered %d %s", a.StatusCode, a.body)
	}
	<-stopped
}

// A log that is followed is a request that does not end: who may no longer follow it
// is not to hear of what comes.
func TestAFollowerWhoseRightIsTakenAwayHearsNoMore(t *testing.T) {
	w := newWorld(t)
	for _, http2 := range []bool{true, false} {
		w.reload(setRules(w, []string{"/v1/log/*"}, nil))
		lines := w.clientOf(&w.app, http2).follow("/v1/log/audit")
		w.reload(setRules(w, []string{"/v1/status"}, nil))
		w.client(w.admin).get("POST", fmt.Sprintf("/v1/key/create/secret-%t", http2), "", nil)
		ended := time.After(3 * time.Second)
	reading:
		for {
			select {
			case line, open := <-lines:
				if !open {
					break reading
				}
				t.Errorf("http2 %t: heard %s", http2, line)
			case <-ended:
				t.Errorf("http2 %t: the stream goes on", http2)
				break reading
			}
		}
	}
}

func TestAFollowerWhoseCertificateHasExpiredHearsNoMore(t *testing.T) {
	w := newWorld(t)
	w.reload(func(s *gateway.State) { s.Clients.RefuseExpired = true })
	lines := w.client(w.admin).follow("/v1/log/audit")
	w.client(w.app).get("GET", "/v1/status", "", nil)
	await(t, lines, "/v1/status")
	w.clock.Store(int64(time.Until(w.admin.Leaf.NotAfter) + time.Hour))
	w.client(w.app).do("GET", "/v1/metrics", "")
	for line := range lines { // to its end
		t.Errorf("heard %s", line)
	}
}
