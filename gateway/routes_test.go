package gateway_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

func TestAZ07_EveryRouteIsInTheTableAndGoesThroughTheDoor(t *testing.T) {
	w := newWorld(t)
	actions := make(map[string]policy.Action)
	for _, a := range policy.Actions() {
		actions[a.String()] = a
	}
	var listed []api.Route
	admin := w.client(w.admin)
	admin.get("GET", "/v1/api", "", &listed)
	limits := make(map[string]api.Route)
	for _, r := range listed {
		limits[r.Path] = r
	}
	stranger := w.client(newCertificate(t, nil))
	seen := make(map[policy.Action]bool)
	for _, route := range w.server.Registered() {
		a, known := actions[route.Name]
		if !known || !strings.HasPrefix(strings.TrimSuffix(route.Path, "*"), strings.TrimSuffix(a.Path(), "/")) {
			t.Errorf("route %s %s is of no action: %q", route.Method, route.Path, route.Name)
			continue
		}
		seen[a] = true
		limit, known := limits[a.Path()]
		stream := a == policy.ReadAuditLog || a == policy.ReadErrorLog
		if !known || limit.MaxBody > api.MaxBatch || (limit.Timeout == 0) != stream {
			t.Errorf("route %s has no limits: %+v", a.Path(), limit)
		}
		if !strings.Contains("GET PUT POST DELETE", route.Method) {
			continue // the answer to other methods
		}
		// Authorization and audit.
		got := stranger.do(route.Method, strings.TrimSuffix(route.Path, "*"), "{}")
		if a == policy.Version || a == policy.DescribeSelf {
			if got.StatusCode != 200 {
				t.Errorf("%s: %d", route.Path, got.StatusCode)
			}
		} else {
			isError(t, route.Path, got, 403, notAuthorized)
		}
		if e := w.last(); e["operation"] != route.Name || e["request_id"] != got.Header.Get("X-Request-Id") || e["status"] != float64(got.StatusCode) {
			t.Errorf("%s %s: audit entry is %v", route.Method, route.Path, e)
		}
	}
	for _, a := range policy.Actions() {
		if !seen[a] && a != policy.BulkDecrypt { // a former route of KES that policies may still name
			t.Errorf("action %s has no route", a)
		}
	}
	if len(listed) != len(seen) {
		t.Errorf("%d routes are listed, %d registered", len(listed), len(seen))
	}
}

func TestListingsAreOfWhatARuleCovers(t *testing.T) {
	w := newWorld(t)
	admin, app := w.client(w.admin), w.client(w.app)
	for _, name := range []string{"app-1", "app-2", "other"} {
		admin.get("POST", "/v1/key/create/"+name, "", nil)
	}
	list := func(path string) string {
		var page api.ListKeysResponse
		a := app.do("GET", path, "")
		if a.StatusCode != 200 {
			return a.Status
		}
		ok(t, json.Unmarshal([]byte(a.body), &page))
		return strings.Join(page.Names, " ")
	}
	w.reload(setRules(w, []string{"/v1/key/list/app-*"}, nil))
	for path, want := range map[string]string{
		"app-": "app-1 app-2", "app-*": "app-1 app-2", "app-1": "app-1", "": "403 Forbidden", "*": "403 Forbidden", "a": "403 Forbidden", "other": "403 Forbidden",
	} {
		if got := list("/v1/key/list/" + path); got != want {
			t.Errorf("list/%s: %s, not %s", path, got, want)
		}
	}
	w.reload(setRules(w, []string{"/v1/key/list/*"}, []string{"/v1/key/list/other"}))
	if got := list("/v1/key/list/"); got != "app-1 app-2" {
		t.Errorf("a name that may not be listed is: %s", got)
	}
}
