package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/api"
)

func conformPolicies(t *testing.T, c *target) {
	c.fails("GET", "/v1/policy/read/no-such-policy", "", 404, "policy does not exist")
	c.fails("GET", "/v1/policy/describe/no-such-policy", "", 404, "policy does not exist")
	c.fails("GET", "/v1/identity/describe/"+strings.Repeat("0", 64), "", 404, "identity does not exist")

	var self map[string]any
	c.get("GET", "/v1/identity/self/describe", "", &self)
	if self["admin"] != true || len(fmt.Sprint(self["identity"])) != 64 {
		t.Errorf("the admin is %v", self)
	}
	var ids api.ListIdentitiesResponse
	c.get("GET", "/v1/identity/list/*", "", &ids)
	if !slices.Contains(ids.Identities, fmt.Sprint(self["identity"])) {
		t.Error("the admin is not among the identities")
	}
	a := c.do("GET", "/v1/policy/list", "")
	if a.StatusCode != 200 || !strings.Contains(a.body, `"continue_at":""`) {
		t.Errorf("list of policies: %d %s", a.StatusCode, a.body)
	}
	var policies api.ListPoliciesResponse
	ok(t, json.Unmarshal([]byte(a.body), &policies))
	for _, name := range policies.Names {
		var described api.DescribePolicyResponse
		c.get("GET", "/v1/policy/describe/"+name, "", &described)
		var read struct {
			Name        string
			Allow, Deny map[string]struct{}
			CreatedAt   time.Time `json:"created_at"`
		}
		c.get("GET", "/v1/policy/read/"+name, "", &read)
		if read.Name != name || described.Name != name || !read.CreatedAt.Equal(described.CreatedAt) || read.CreatedAt.IsZero() {
			t.Errorf("policy %s is %+v and %+v", name, described, read)
		}
	}
}

func conformStatus(t *testing.T, c *target) {
	var version map[string]any
	c.get("GET", "/version", "", &version)
	if version["version"] == "" || version["version"] == nil || version["commit"] == nil {
		t.Errorf("version is %v", version)
	}
	isEmpty(t, c.do("GET", "/v1/ready", ""))
	isEmpty(t, c.do("GET", "/v1/ready/", ""))
	var status map[string]any
	c.get("GET", "/v1/status", "", &status)
	for _, field := range []string{"version", "os", "arch", "uptime", "num_cpu", "num_cpu_used", "mem_heap_used", "mem_stack_used", "keystore_latency"} {
		if status[field] == nil {
			t.Errorf("status has no %s", field)
		}
	}
	for _, field := range []string{"keystore_unavailable", "keystore_unreachable"} {
		if status[field] != nil {
			t.Errorf("status has %s", field)
		}
	}
	if ns, _ := status["keystore_latency"].(float64); ns < 1 || ns > 1e9 {
		t.Errorf("latency is %v ns", ns)
	}
}

// series matches a line of Prometheus' text format.
var series = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[^}]*\})? `)

func conformMetrics(t *testing.T, c *target) {
	// A KES client takes a family of more than one series for a broken answer,
	// but for these.
	several := []string{"kes_http_request_success", "kes_http_request_error", "kes_http_request_failure"}
	a := c.do("GET", "/v1/metrics", "")
	if a.StatusCode != 200 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain") {
		t.Fatalf("answered %d %q", a.StatusCode, a.Header.Get("Content-Type"))
	}
	seen := make(map[string]int)
	kind := make(map[string]string)
	for line := range strings.Lines(a.body) {
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" {
			kind[f[2]] = f[3]
		}
		if m := series.FindStringSubmatch(line); m != nil {
			seen[m[1]]++
		}
	}
	for _, family := range []string{"kes_http_request_success", "kes_http_request_error", "kes_http_request_active", "kes_log_error_events", "kes_log_audit_events",
		"kes_system_up_time", "kes_system_num_cpu", "kes_system_num_cpu_used", "kes_system_num_threads", "kes_system_mem_heap_used", "kes_system_mem_heap_objects", "kes_system_mem_stack_used"} {
		if seen[family] == 0 {
			t.Errorf("there is no %s", family)
		}
	}
	if kind["kes_http_response_time"] != "histogram" || seen["kes_http_response_time_count"] != 1 {
		t.Error("kes_http_response_time is no histogram of one series")
	}
	for family, n := range seen {
		if n > 1 && !slices.Contains(several, family) && family != "kes_http_response_time_bucket" {
			t.Errorf("%s has %d series", family, n)
		}
		if !strings.HasPrefix(family, "kes_") {
			t.Errorf("%s is no family of KES", family)
		}
	}
	if !regexp.MustCompile(`kes_http_request_error\{code="403"\} [1-9]`).MatchString(a.body) {
		t.Error("403 is not counted")
	}
}

// follow opens a stream and returns its lines.
func (c *client) follow(path string) <-chan string {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", c.base+path, nil)
	ok(c.t, err)
	endless := *c.http
	endless.Timeout = 0
	resp, err := endless.Do(req) // returns as the headers are flushed at once
	ok(c.t, err)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-ndjson" {
		c.t.Fatalf("%s: %d %q", path, resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		defer resp.Body.Close()
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			lines <- s.Text()
		}
	}()
	return lines
}

// await returns the first line that holds what is wanted.
func await(t *testing.T, lines <-chan string, wanted string) string {
	t.Helper()
	timeout := time.After(5 * time.Second)
	for {
		select {
		case line, open := <-lines:
			if !open {
				t.Fatalf("the stream ended before %q", wanted)
			}
			if strings.Contains(line, wanted) {
				return line
			}
		case <-timeout:
			t.Fatalf("%q never came", wanted)
		}
	}
}

func conformStreams(t *testing.T, c *target) {
	name := c.prefix + "stream"
	for _, cl := range []*client{c.client, c.h1} {
		lines := cl.follow("/v1/log/audit")
		before := time.Now().Add(-time.Minute)
		c.fails("GET", "/v1/key/describe/"+name, "", 404, "key does not exist")
		line := await(t, lines, name)
		var event struct {
			Time     time.Time
			Request  struct{ IP, Path, Identity string }
			Response struct {
				Code int
				Time int64
			}
		}
		ok(t, json.Unmarshal([]byte(line), &event))
		if event.Request.Path != "/v1/key/describe/"+name || event.Response.Code != 404 || len(event.Request.Identity) != 64 ||
			event.Request.IP == "" || strings.Contains(event.Request.IP, ":") || event.Response.Time <= 0 || event.Time.Before(before) {
			t.Errorf("event is %s", line)
		}
	}
	// Nothing can make an error at will through the API: that a line is
	// delivered is tested where the server is at hand.
	c.follow("/v1/log/error")
}
