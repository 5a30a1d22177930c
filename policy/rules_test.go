package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keygate/keygate/policy"
)

const (
	admin = policy.Identity("aa00000000000000000000000000000000000000000000000000000000000000")
	app   = policy.Identity("bb00000000000000000000000000000000000000000000000000000000000000")
	other = policy.Identity("cc00000000000000000000000000000000000000000000000000000000000000")
)

func compile(t testing.TB, p ...policy.Policy) *policy.Rules {
	t.Helper()
	r, err := policy.Compile(admin, p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAuthorize(t *testing.T) {
	r := compile(t, policy.Policy{
		Name:       "app",
		Allow:      []string{"/v1/key/create/app-1", "/v1/key/generate/app-*", "/v1/key/list/app-*", "/v1/status", "/v1/log/*", "/v1/policy/re*", "/v1/identity/list"},
		Deny:       []string{"/v1/key/generate/app-secret*"},
		Identities: []policy.Identity{app},
	})
	for _, tc := range []struct {
		action   policy.Action
		resource string
		allowed  bool
	}{
		{policy.CreateKey, "app-1", true},
		{policy.CreateKey, "app-2", false},
		{policy.CreateKey, "App-1", false},
		{policy.CreateKey, "", false},
		{policy.GenerateDataKey, "app-1", true},
		{policy.GenerateDataKey, "app-", true},
		{policy.GenerateDataKey, "app", false},
		{policy.GenerateDataKey, "app-secret", false},
		{policy.GenerateDataKey, "app-secrets-2", false},
		{policy.Decrypt, "app-1", false},
		{policy.ListKeys, "app-", true},
		{policy.ListKeys, "app-*", true},
		{policy.ListKeys, "app-1*", true},
		{policy.ListKeys, "app*", false},
		{policy.ListKeys, "*", false},
		{policy.ListKeys, "", false},
		{policy.ListIdentities, "", true},
		{policy.ListIdentities, "*", true},
		{policy.ListIdentities, "a", false},
		{policy.Status, "", true},
		{policy.Ready, "", false},
		{policy.ReadAuditLog, "", true},
		{policy.ReadErrorLog, "", true},
		{policy.ReadPolicy, "app", true},
		{policy.DescribePolicy, "app", false},
	} {
		want := policy.Decision{Allowed: tc.allowed, Policy: "app"}
		if got := r.Authorize(app, tc.action, tc.resource); got != want {
			t.Errorf("%v %q: %+v", tc.action, tc.resource, got)
		}
		if got := r.Authorize(admin, tc.action, tc.resource); !got.Allowed || !got.Admin {
			t.Errorf("%v %q: the admin is denied", tc.action, tc.resource)
		}
		for _, id := range []policy.Identity{other, ""} {
			if got := r.Authorize(id, tc.action, tc.resource); got.Allowed {
				t.Errorf("%v %q: %q is allowed", tc.action, tc.resource, id)
			}
		}
	}
}

func TestHidesIsWhatListDenies(t *testing.T) {
	r := compile(t, policy.Policy{
		Name: "app", Allow: []string{"/v1/key/list/*"}, Deny: []string{"/v1/key/list/secret-*", "/v1/key/list/private"}, Identities: []policy.Identity{app},
	})
	for name, want := range map[string]bool{"secret-1": true, "secret-": true, "secret": false, "private": true, "private-2": false, "a": false} {
		if got := r.Hides(app, policy.ListKeys, name); got != want {
			t.Errorf("%s: %v", name, got)
		}
		if r.Hides(admin, policy.ListKeys, name) {
			t.Errorf("%s is hidden from the admin", name)
		}
	}
}

func TestAccessors(t *testing.T) {
	p := policy.Policy{Name: "p", Allow: []string{"/v1/status"}, Deny: []string{"/v1/key/*"}, Identities: []policy.Identity{app}}
	r := compile(t, policy.Policy{Name: "z"}, p)
	p.Allow[0] = "changed" // the rules have their own
	got, ok := r.Policy("p")
	if !ok || got.Name != "p" || !slices.Equal(got.Allow, []string{"/v1/status"}) || !slices.Equal(got.Deny, p.Deny) || !slices.Equal(got.Identities, p.Identities) {
		t.Errorf("policy is %+v", got)
	}
	if _, ok := r.Policy("P"); ok {
		t.Error("a policy that is not there is found")
	}
	if names := r.Policies(); !slices.Equal(names, []string{"p", "z"}) {
		t.Errorf("policies are %q", names)
	}
	if ids := r.Identities(); !slices.Equal(ids, []policy.Identity{admin, app}) {
		t.Errorf("identities are %q", ids)
	}
	if r.Admin() != admin || r.PolicyOf(app) != "p" || r.PolicyOf(admin) != "" || r.PolicyOf(other) != "" {
		t.Errorf("admin %q, policies %q, %q, %q", r.Admin(), r.PolicyOf(app), r.PolicyOf(admin), r.PolicyOf(other))
	}
}

func TestActionsHaveOneNameAndOnePath(t *testing.T) {
	names, paths := make(map[string]bool), make(map[string]bool)
	for _, a := range policy.Actions() {
		if names[a.String()] || paths[a.Path()] || a.String() == "" || !strings.HasPrefix(a.Path(), "/") {
			t.Errorf("%d: name %q, path %q", a, a, a.Path())
		}
		names[a.String()], paths[a.Path()] = true, true
		if follows := a.TakesName() || a.Lists(); follows != strings.HasSuffix(a.Path(), "/") {
			t.Errorf("%v: path %q", a, a.Path())
		}
		// A request for one action can never be read as one for another.
		for _, b := range policy.Actions() {
			if a != b && (a.TakesName() || a.Lists()) && strings.HasPrefix(b.Path(), a.Path()) {
				t.Errorf("the path of %v is below that of %v", b, a)
			}
		}
	}
	if s := policy.Action(0).String() + policy.Action(200).String(); s != "action 200" {
		t.Errorf("unknown actions are %q", s)
	}
}

func TestUnknownActionIsDenied(t *testing.T) {
	r := compile(t, policy.Policy{Name: "p", Allow: []string{"*"}, Identities: []policy.Identity{app}})
	for _, a := range []policy.Action{0, 200, 255} {
		if r.Authorize(app, a, "").Allowed {
			t.Errorf("%d is allowed", a)
		}
	}
}

func TestNoAdminIsNobody(t *testing.T) {
	r, err := policy.Compile("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Authorize("", policy.Status, "").Allowed {
		t.Error("the empty identity is the admin")
	}
}

func ExampleRules_Authorize() {
	rules, err := policy.Compile("", []policy.Policy{{
		Name:       "storage",
		Allow:      []string{"/v1/key/generate/bucket-*", "/v1/key/decrypt/bucket-*"},
		Deny:       []string{"/v1/key/generate/bucket-audit"},
		Identities: []policy.Identity{app},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rules.Authorize(app, policy.GenerateDataKey, "bucket-1").Allowed)
	fmt.Println(rules.Authorize(app, policy.GenerateDataKey, "bucket-audit").Allowed)
	fmt.Println(rules.Authorize(app, policy.DeleteKey, "bucket-1").Allowed)
	// Output:
	// true
	// false
	// false
}
