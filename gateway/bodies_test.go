package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/gateway"
)

// Bodies that do not come to their end fill no more memory than they may, and cost
// others nothing.
func TestTheBodiesInMemoryAreBounded(t *testing.T) {
	w := newWorld(t, limited(gateway.LimitsConfig{Bodies: 16 << 20}))
	c, admin := w.client(w.app), w.client(w.admin)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	large := `{"context":"` + strings.Repeat("AAAA", 20_000) + `"}`
	c.get("POST", "/v1/key/generate/app-1", large, nil)

	conn := w.dial(w.app) // half of what there is, and it never comes
	_, err := fmt.Fprintf(conn, "POST /v1/key/batch/decrypt/app-1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n[", api.MaxBatch)
	ok(t, err)
	eventually(t, "the batch is being read", func() bool {
		return strings.Contains(admin.do("GET", "/metrics", "").body, "\nkeygate_requests_active 2\n")
	})
	time.Sleep(100 * time.Millisecond) // it holds its bytes a moment after it is counted
	a := c.fails("POST", "/v1/key/generate/app-1", large, http.StatusServiceUnavailable, api.ErrOverload.Message)
	if a.Header.Get("Retry-After") != "1" {
		t.Error("no Retry-After")
	}
	if e := w.last(); e["outcome"] != "unavailable" || e["status"] != 503.0 {
		t.Errorf("audit entry is %v", e)
	}
	if a := c.send("POST", "/v1/key/generate/app-1", io.MultiReader(strings.NewReader(large))); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a Content-Length: answered %d", a.StatusCode)
	}
	c.fails("POST", "/v1/key/import/app-2", large, http.StatusServiceUnavailable, api.ErrOverload.Message)
	c.get("POST", "/v1/key/generate/app-1", `{"context":"AAAA"}`, nil) // small
	admin.get("POST", "/v1/key/generate/app-1", large, nil)            // another's
	if m := admin.do("GET", "/metrics", "").body; !strings.Contains(m, `keygate_admission_refused_total{reason="bodies"}`) {
		t.Error("the refusals are not counted")
	}
	if strings.Contains(w.log.String(), "request failed") {
		t.Errorf("the error log is %s", w.log)
	}

	ok(t, conn.Close())
	eventually(t, "the app is served again", func() bool {
		return c.do("POST", "/v1/key/generate/app-1", large).StatusCode == http.StatusOK
	})
	whole := "[" + strings.Repeat(" ", api.MaxBatch-2) + "]" // the largest batch still is read
	for range 3 {
		c.get("POST", "/v1/key/batch/decrypt/app-1", whole, nil)
		if a := c.send("POST", "/v1/key/batch/decrypt/app-1", bufio.NewReader(strings.NewReader(whole))); a.StatusCode != http.StatusOK {
			t.Errorf("the largest batch: answered %d %s", a.StatusCode, a.body)
		}
	}
}
