package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/kms"
)

func TestADeletedKeyIsNeitherAbsentNorPresent(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	var dek api.GenerateKeyResponse
	c.get("POST", "/v1/key/generate/app-1", "", &dek)
	c.get("DELETE", "/v1/key/delete/app-1", "", nil)
	var info api.DescribeKeyResponse
	c.get("GET", "/v1/key/describe/app-1", "", &info)
	if info.State != "pending deletion" || info.DeleteAfter == nil || info.Version != 1 || info.Mode != "branch" || len(info.ID) != 32 {
		t.Fatalf("described as %+v", info)
	}
	message := "key is pending deletion: neither it nor its name can be used; it is kept until " + info.DeleteAfter.UTC().Format(time.RFC3339)
	c.fails("POST", "/v1/key/create/app-1", "", 409, message)
	c.fails("POST", "/v1/key/import/app-1", importBody(kesKey(), "AES256"), 409, message)
	c.fails("POST", "/v1/key/generate/app-1", "", 409, message)
	c.fails("POST", "/v1/key/decrypt/app-1", ciphertextBody(dek.Ciphertext, ""), 409, message)
	c.fails("POST", "/v1/key/encrypt/app-1", `{"plaintext":"AAAA"}`, 409, message)
	c.fails("PUT", "/v1/key/hmac/app-1", `{"message":"AAAA"}`, 409, message)
	if e := w.last(); e["outcome"] != "pending deletion" || e["key_id"] != info.ID {
		t.Errorf("audit entry is %v", e)
	}
	isEmpty(t, c.do("DELETE", "/v1/key/delete/app-1", ""))
}

func TestDeletionAsInKES(t *testing.T) {
	w := newWorld(t, func(w *world) { w.deletionWindow = -1 })
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	isEmpty(t, c.do("DELETE", "/v1/key/delete/app-1", ""))
	c.fails("DELETE", "/v1/key/delete/app-1", "", 404, "key does not exist")
	c.fails("POST", "/v1/key/generate/app-1", "", 404, "key does not exist")
	isEmpty(t, c.do("POST", "/v1/key/create/app-1", ""))
}

func TestAKeyStoreThatIsGoneIsNeverAnAbsentKey(t *testing.T) {
	w := newWorld(t)
	c, admin := w.client(w.app), w.client(w.admin)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	ok(t, os.Rename(w.store, w.store+".away"))
	ok(t, os.Mkdir(w.store, 0o700)) // as where a volume is not mounted
	for _, route := range kesRoutes {
		if !strings.HasPrefix(route.Path, "/v1/key/") {
			continue
		}
		name := "app-2" // not in memory
		if route.Path == "/v1/key/list/" {
			name = ""
		}
		body := importBody(kesKey(), "AES256")
		a := admin.fails(route.Method, route.Path+name, body, 503, "key store is unavailable")
		if a.Header.Get("Retry-After") != "1" {
			t.Errorf("%s: Retry-After is %q", route.Path, a.Header.Get("Retry-After"))
		}
	}
	if e := w.last(); e["outcome"] != "unavailable" {
		t.Errorf("audit entry is %v", e)
	}
	admin.fails("GET", "/v1/ready", "", 504, "key store is not reachable")
	var status map[string]any
	admin.get("GET", "/v1/status", "", &status)
	if status["keystore_unavailable"] != true || status["keystore_unreachable"] != true || status["keystore_latency"] != nil || status["root_unavailable"] != nil {
		t.Errorf("status is %v", status)
	}
	ok(t, os.Remove(w.store))
	ok(t, os.Rename(w.store+".away", w.store))
	eventually(t, "the gateway is ready again", func() bool { return admin.do("GET", "/v1/ready", "").StatusCode == 200 })
	c.get("POST", "/v1/key/generate/app-1", "", nil)
}

func TestCR05_KS16_ExchangedRecordsAreAnAlarmAndNoAbsentKeys(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprint("KS-16 restarted ", restarted), func(t *testing.T) {
			w := newWorld(t)
			c := w.client(w.app)
			c.get("POST", "/v1/key/create/app-1", "", nil)
			c.get("POST", "/v1/key/create/app-2", "", nil)
			exchange(t, filepath.Join(w.store, "app-1.record"), filepath.Join(w.store, "app-2.record"))
			w.clock.Store(int64(time.Minute)) // what is in memory is looked at again
			if restarted {
				w.restart()
				c = w.client(w.app)
			}
			for _, name := range []string{"app-1", "app-2"} {
				c.fails("POST", "/v1/key/generate/"+name, "", 500, "key record is corrupt")
				if e := w.last(); e["outcome"] != "error" || e["key"] != name || e["status"] != 500.0 {
					t.Errorf("audit entry is %v", e)
				}
				c.fails("GET", "/v1/key/describe/"+name, "", 500, "key record is corrupt")
				if a := c.do("POST", "/v1/key/create/"+name, ""); a.StatusCode == 200 {
					t.Error("the name could be taken")
				}
			}
			m := w.client(w.admin).do("GET", "/metrics", "").body
			if !strings.Contains(m, "\nkeygate_corrupt_records_total ") || strings.Contains(m, "\nkeygate_corrupt_records_total 0\n") {
				t.Error("the metrics give no alarm")
			}
			if !strings.Contains(w.log.String(), "corrupt") {
				t.Errorf("the error log does not tell of it: %s", w.log)
			}
		})
	}
}

// exchange gives each of two files the other's name.
func exchange(t *testing.T, a, b string) {
	t.Helper()
	ok(t, os.Rename(a, a+".away"))
	ok(t, os.Rename(b, a))
	ok(t, os.Rename(a+".away", b))
}

func TestARootThatIsDown(t *testing.T) {
	w := newWorld(t)
	c, admin := w.client(w.app), w.client(w.admin)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	w.root.down.Store(true)
	a := c.fails("POST", "/v1/key/generate/app-1", "", 503, "root of trust or key store is unavailable")
	if a.Header.Get("Retry-After") != "1" {
		t.Error("no Retry-After")
	}
	id := a.Header.Get("X-Request-Id")
	if e := w.last(); e["request_id"] != id || e["outcome"] != "unavailable" || len(id) != 16 {
		t.Errorf("audit entry is %v", e)
	}
	if log := w.log.String(); strings.Count(log, id) != 1 || !strings.Contains(log, "root is down") {
		t.Errorf("the error log is %s", log)
	}
	admin.fails("GET", "/v1/ready", "", 504, "root of trust is not reachable")
	var status map[string]any
	admin.get("GET", "/v1/status", "", &status)
	if status["root_unavailable"] != true || status["keystore_unavailable"] != nil || status["keystore_latency"] == nil {
		t.Errorf("status is %v", status)
	}
}

func TestARootThatHangs(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.state.Routes = map[string]gateway.RouteConfig{"/v1/key/generate/": {Timeout: 200 * time.Millisecond}}
	})
	w.client(w.app).get("POST", "/v1/key/create/app-1", "", nil)
	w.root.hangs.Store(true)
	for _, c := range []*client{w.client(w.app), w.clientOf(&w.app, false)} {
		start := time.Now()
		a := c.fails("POST", "/v1/key/generate/app-1", "{}", 503, "root of trust or key store is unavailable")
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		id := a.Header.Get("X-Request-Id")
		eventually(t, "the fault is logged", func() bool { return strings.Count(w.log.String(), id) == 1 })
	}
	// A client that goes is no fault of the server's.
	logged := w.log.String()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "https://"+w.addr+"/v1/key/generate/app-1", nil)
	ok(t, err)
	before := len(w.entries())
	if _, err := w.client(w.app).http.Do(req); err == nil {
		t.Error("it was answered")
	}
	eventually(t, "the request is written down", func() bool { return len(w.entries()) > before })
	if s := w.log.String(); s != logged {
		t.Errorf("the client filled the error log: %s", s[len(logged):])
	}
}

func TestAPanicIsAnInternalError(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	w.root.fails.Store(true)
	a := c.fails("POST", "/v1/key/generate/app-1", "", 500, "internal error")
	if e := w.last(); e["outcome"] != "error" || e["request_id"] != a.Header.Get("X-Request-Id") {
		t.Errorf("audit entry is %v", e)
	}
	if log := w.log.String(); !strings.Contains(log, "test: root panics") || !strings.Contains(log, "root_test.go") {
		t.Errorf("the error log does not say where: %s", log)
	}
	w.root.fails.Store(false)
	c.get("POST", "/v1/key/generate/app-1", "", nil)
}

func TestAU03_WithoutAnAuditLogNoKeyIsUsed(t *testing.T) {
	w := newWorld(t, counted)
	c, admin := w.client(w.app), w.client(w.admin)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	ok(t, w.audit.Close()) // from now on each write fails, as the next request finds out
	for _, op := range []string{"create", "generate", "encrypt", "decrypt", "hmac"} {
		a := c.do("POST", "/v1/key/"+op+"/app-1", `{"plaintext":"AAAA"}`)
		isError(t, op, a, 503, "audit log is unavailable")
		if strings.Contains(a.body, "plaintext") || a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %q", op, a.body)
		}
	}
	// Since it is known, nothing is done that could not be written down.
	stored, calls := w.storeCalls.Load(), w.root.calls.Load()
	c.fails("POST", "/v1/key/create/app-2", "", 503, "audit log is unavailable")
	c.fails("POST", "/v1/key/import/app-3", importBody(kesKey(), "AES256"), 503, "audit log is unavailable")
	c.fails("DELETE", "/v1/key/delete/app-1", "", 503, "audit log is unavailable")
	if s, r := w.storeCalls.Load()-stored, w.root.calls.Load()-calls; s != 0 || r != 0 {
		t.Errorf("the store was asked %d times, the root %d times", s, r)
	}
	names, err := w.kms.ListKeys(t.Context(), "")
	if ok(t, err); len(names) != 1 {
		t.Errorf("there are the keys %v", names)
	}
	if info, err := w.kms.DescribeKey(t.Context(), "app-1"); err != nil || info.State != kms.Enabled {
		t.Errorf("the key is %v, %v", info.State, err)
	}
	admin.fails("GET", "/v1/policy/read/app", "", 503, "audit log is unavailable")
	admin.fails("GET", "/v1/ready", "", 503, "audit log is unavailable")
	admin.get("GET", "/v1/status", "", nil)
	admin.get("GET", "/version", "", nil)
	admin.get("GET", "/v1/api", "", nil)
	metrics := admin.do("GET", "/metrics", "")
	if metrics.StatusCode != 200 || !strings.Contains(metrics.body, "\nkeygate_audit_failures_total ") || strings.Contains(metrics.body, "\nkeygate_audit_failures_total 0\n") {
		t.Error("the failures are not counted")
	}
	if log := w.log.String(); strings.Count(log, "audit: entries cannot be written") != 1 || strings.Contains(log, "request failed") {
		t.Errorf("it is not logged once: %s", log)
	}
}

func TestMetricsCountEverythingAndNameNoKey(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	c.get("POST", "/v1/key/generate/app-1", "", nil)
	c.fails("POST", "/v1/key/generate/key-7f3a", "", 404, "key does not exist")
	c.fails("GET", "/v1/identity/list/*", "", 403, notAuthorized)
	c.fails("GET", "/nothing", "", 501, "not implemented")
	m := w.client(w.admin).do("GET", "/metrics", "")
	if m.StatusCode != 200 {
		t.Fatalf("answered %d", m.StatusCode)
	}
	for _, line := range []string{
		`keygate_requests_total{operation="key:create",outcome="ok"} 1`, `keygate_requests_total{operation="key:generate",outcome="ok"} 1`,
		`keygate_requests_total{operation="key:generate",outcome="not found"} 1`, `keygate_requests_total{operation="identity:list",outcome="denied"} 1`,
		`keygate_requests_total{operation="unknown",outcome="invalid"} 1`, `keygate_request_duration_seconds_count{operation="key:generate"} 2`,
		`keygate_root_errors_total 0`, `keygate_corrupt_records_total 0`, `keygate_requests_active 1`,
		`keygate_admission_refused_total{reason="overload"} 0`, `keygate_admission_refused_total{reason="rate"} 0`,
	} {
		if !strings.Contains(m.body, "\n"+line+"\n") {
			t.Errorf("there is no %s", line)
		}
	}
	for _, family := range []string{"keygate_build_info{", "keygate_record_cache_hits_total ", "go_goroutines ", "process_cpu_seconds_total ", "keygate_server_certificate_expiry_seconds "} {
		if !strings.Contains(m.body, "\n"+family) {
			t.Errorf("there is no %s", family)
		}
	}
	for _, name := range []string{"app-1", "key-7f3a", string(w.appID), string(w.adminID)} {
		if strings.Contains(m.body, name) {
			t.Errorf("%s is in the metrics", name)
		}
	}
}

func TestSelfDescribeIsWhatKESClientsDecode(t *testing.T) {
	w := newWorld(t)
	w.reload(setRules(w, []string{"/v1/status", "/v1/key/*"}, []string{"/v1/key/delete/*"}))
	var self struct {
		Identity  string
		Admin     bool
		Policy    string // a text, with the rules beside it
		Allow     map[string]struct{}
		Deny      map[string]struct{}
		CreatedBy string `json:"created_by"`
	}
	w.client(w.app).get("GET", "/v1/identity/self/describe", "", &self)
	if self.Identity != string(w.appID) || self.Admin || self.Policy != "app" || len(self.Allow) != 2 || len(self.Deny) != 1 || self.CreatedBy != string(w.adminID) {
		t.Errorf("got %+v", self)
	}
	var read struct{ Allow, Deny map[string]struct{} }
	w.client(w.admin).get("GET", "/v1/policy/read/app", "", &read)
	if fmt.Sprint(read.Allow) != fmt.Sprint(self.Allow) || fmt.Sprint(read.Deny) != fmt.Sprint(self.Deny) {
		t.Errorf("policy is %+v", read)
	}
	var id struct {
		Policy string
		Admin  bool
	}
	w.client(w.admin).get("GET", "/v1/identity/describe/"+string(w.appID), "", &id)
	if id.Policy != "app" || id.Admin {
		t.Errorf("identity is %+v", id)
	}
}
