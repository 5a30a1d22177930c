package gateway_test

import (
	"crypto/tls"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/policy"
)

func limited(l gateway.LimitsConfig) func(*world) {
	return func(w *world) { w.limits = l }
}

// hold begins a generate whose body does not end, until the test does.
func (w *world) hold(as tls.Certificate) {
	conn := w.dial(as)
	_, err := io.WriteString(conn, "POST /v1/key/generate/app-1 HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
	ok(w.t, err)
}

func isRefused(t *testing.T, a answer, status int, message string) {
	t.Helper()
	isError(t, "refusal", a, status, message)
	if after := a.Header.Get("Retry-After"); after == "" || after == "0" {
		t.Errorf("Retry-After is %q", after)
	}
	if a.Header.Get("X-Request-Id") == "" {
		t.Error("the refusal has no request id")
	}
}

// One identity has all places that it may have, and as many requests that wait for
// something. It is refused what comes then, in time, and nobody else is.
func TestLD08_AFullIdentityIsRefusedAndNoOther(t *testing.T) {
	w := newWorld(t, limited(gateway.LimitsConfig{Running: 4, Pending: 2, Queue: 4}))
	app, admin := w.client(w.app), w.client(w.admin)
	app.get("POST", "/v1/key/create/app-1", "", nil)
	for range 3 { // a share of two, and one that waits for something
		w.hold(w.app)
	}
	eventually(t, "the places are taken", func() bool {
		return app.do("POST", "/v1/key/generate/app-1", "").StatusCode == http.StatusServiceUnavailable
	})
	for range 20 {
		begin := time.Now()
		a := app.do("POST", "/v1/key/generate/app-1", "")
		took := time.Since(begin)
		isRefused(t, a, http.StatusServiceUnavailable, api.ErrOverload.Message)
		if took < 5*time.Millisecond || took > 100*time.Millisecond { // 10 ms where the machine is free
			t.Errorf("refused after %v", took)
		}
		admin.get("POST", "/v1/key/generate/app-1", "", nil)
	}
	app.get("GET", "/v1/status", "", nil) // public routes have places of their own
	app.get("GET", "/version", "", nil)
	metrics := admin.do("GET", "/metrics", "").body
	for _, line := range []string{`keygate_admission_refused_total{reason="overload"} 2`, "keygate_admission_running 2", "keygate_admission_pending 1", "keygate_admission_queued 0"} {
		if !strings.Contains(metrics, "\n"+line) {
			t.Errorf("the metrics have no %s", line)
		}
	}
}

func TestARefusedIdentityRecovers(t *testing.T) {
	w := newWorld(t, limited(gateway.LimitsConfig{Running: 2, Pending: 2, Queue: 2}))
	app := w.client(w.app)
	app.get("POST", "/v1/key/create/app-1", "", nil)
	conns := []*tls.Conn{w.dial(w.app), w.dial(w.app)}
	for _, c := range conns {
		_, err := io.WriteString(c, "POST /v1/key/generate/app-1 HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
		ok(t, err)
	}
	eventually(t, "it is refused", func() bool { return app.do("POST", "/v1/key/generate/app-1", "").StatusCode == 503 })
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "it is served", func() bool { return app.do("POST", "/v1/key/generate/app-1", "").StatusCode == 200 })
}

func TestARateLimit(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.limits.Rate = gateway.RateConfig{Requests: 0.5, Burst: 4, Identities: map[policy.Identity]gateway.RateLimit{w.adminID: {}}}
	})
	admin, app := w.client(w.admin), w.client(w.app)
	admin.get("POST", "/v1/key/create/app-1", "", nil)
	for range 4 {
		app.get("POST", "/v1/key/generate/app-1", "", nil)
	}
	isRefused(t, app.do("POST", "/v1/key/generate/app-1", ""), http.StatusTooManyRequests, api.ErrRate.Message)
	a := w.clientOf(&w.app, false).do("POST", "/v1/key/generate/app-1", "")
	isRefused(t, a, http.StatusTooManyRequests, api.ErrRate.Message)
	if after := a.Header.Get("Retry-After"); after != "2" && after != "1" {
		t.Errorf("Retry-After is %s", after)
	}
	for range 10 {
		admin.get("POST", "/v1/key/generate/app-1", "", nil)
		app.get("GET", "/v1/status", "", nil)
	}
}

func TestItemsOfABatchCountAsRequests(t *testing.T) {
	w := newWorld(t, limited(gateway.LimitsConfig{Rate: gateway.RateConfig{Requests: 1, Burst: 20}}))
	admin, app := w.client(w.admin), w.client(w.app)
	admin.get("POST", "/v1/key/create/app-1", "", nil)
	app.get("POST", "/v1/key/batch/generate/app-1", `{"count":60}`, nil)
	a := app.do("POST", "/v1/key/generate/app-1", "")
	isRefused(t, a, http.StatusTooManyRequests, api.ErrRate.Message)
	if after := a.Header.Get("Retry-After"); after != "41" && after != "40" { // 60 are used, 19 may be
		t.Errorf("Retry-After is %s", after)
	}
}

func TestStrangersAreOneCaller(t *testing.T) {
	w := newWorld(t, limited(gateway.LimitsConfig{Rate: gateway.RateConfig{Requests: 0.1, Burst: 3}}))
	for range 3 {
		w.client(newCertificate(t, nil)).fails("POST", "/v1/key/generate/app-1", "", 403, api.ErrNotAllowed.Message)
	}
	isRefused(t, w.client(newCertificate(t, nil)).do("POST", "/v1/key/generate/app-1", ""), 429, api.ErrRate.Message)
	w.client(w.app).get("POST", "/v1/key/create/app-1", "", nil)
}

// Refusals beyond the first of a second have no entry each, but are counted.
func TestRefusalsAreAuditedInSums(t *testing.T) {
	w := newWorld(t, limited(gateway.LimitsConfig{Rate: gateway.RateConfig{Requests: 0.001, Burst: 1}}))
	app := w.client(w.app)
	app.get("POST", "/v1/key/create/app-1", "", nil)
	const refused = 300
	for range refused {
		isRefused(t, app.do("POST", "/v1/key/generate/app-1", ""), 429, api.ErrRate.Message)
	}
	first := w.last()
	if first["status"] != 429.0 || first["outcome"] != "refused" || first["identity"] != string(w.appID) || first["key"] != "app-1" {
		t.Errorf("the entry is %v", first)
	}
	w.stop()
	lines, sum := 0, 0
	for _, e := range w.entries() {
		if e["outcome"] != "refused" {
			continue
		}
		if e["identity"] != string(w.appID) || e["status"] != 429.0 || e["error"] != api.ErrRate.Message {
			t.Errorf("the entry is %v", e)
		}
		lines++
		if e["request_id"] != "" {
			sum++
		}
		if skipped, ok := e["skipped"].(float64); ok {
			sum += int(skipped)
		}
	}
	if sum != refused || lines > 20 {
		t.Errorf("%d entries are about %d refusals of %d", lines, sum, refused)
	}
}

// A client that does nothing but be refused is slowed, and its answers come in time
// all the same: over HTTP/1.1 it is what comes after an answer that waits.
func TestRefusalsArePaced(t *testing.T) {
	w := newWorld(t, limited(gateway.LimitsConfig{Rate: gateway.RateConfig{Requests: 0.001, Burst: 1}}))
	w.client(w.app).get("POST", "/v1/key/create/app-1", "", nil)
	const measured = 2 * time.Second
	var n atomic.Int64
	var wg sync.WaitGroup
	end := time.Now().Add(measured)
	for range 8 {
		c := w.clientOf(&w.app, false)
		wg.Go(func() {
			for time.Now().Before(end) {
				if a := c.do("POST", "/v1/key/generate/app-1", ""); a.StatusCode != 429 {
					t.Errorf("answered %d", a.StatusCode)
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	perSecond := 1000 * runtime.GOMAXPROCS(0)
	if most := int64(perSecond) + int64(measured.Seconds()*1.5*float64(perSecond)); n.Load() > most {
		t.Errorf("%d refusals in %v, more than %d", n.Load(), measured, most)
	}
	t.Logf("%d refusals in %v", n.Load(), measured)
}

func TestPollsAreSampled(t *testing.T) {
	w := newWorld(t, func(w *world) { w.polls.Sample = 10 })
	app := w.client(w.app)
	app.get("POST", "/v1/key/create/app-1", "", nil)
	for range 25 {
		app.get("GET", "/v1/key/describe/app-1", "", nil)
		app.get("GET", "/v1/status", "", nil)
		app.fails("GET", "/v1/key/describe/app-2", "", 404, "key does not exist")
	}
	if m := w.client(w.admin).do("GET", "/metrics", "").body; !strings.Contains(m, "\nkeygate_audit_skipped_total 44\n") {
		t.Error("the metrics do not say how many were left out")
	}
	w.stop()
	lines, sums := map[any]int{}, map[any]int{}
	for _, e := range w.entries() {
		if e["outcome"] != "ok" {
			continue
		}
		lines[e["operation"]]++
		if skipped, ok := e["skipped"].(float64); ok {
			sums[e["operation"]] += int(skipped)
		}
	}
	for _, operation := range []string{"key:describe", "status"} {
		if lines[operation] != 4 || sums[operation] != 22 { // 3 of 25 are written, and at the end what is left
			t.Errorf("%s: %d lines, %d left out, of 25", operation, lines[operation], sums[operation])
		}
	}
	if n := len(w.entries()); n < 25 {
		t.Errorf("failures were left out: %d entries", n)
	}
}
