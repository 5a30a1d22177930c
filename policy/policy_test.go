package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

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
	if !r.Hides(app, policy.GenerateDataKey, "app-secret") || r.Hides(app, policy.GenerateDataKey, "app-1") || r.Hides(admin, policy.GenerateDataKey, "app-secret") {
		t.Error("Hides is not what deny says")
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

func TestCompileNamesWhatIsWrong(t *testing.T) {
	for name, tc := range map[string]struct {
		policies []policy.Policy
		field    string
		index    int
		reason   string
	}{
		"bad name":             {[]policy.Policy{{Name: "a b"}}, "name", 0, "invalid characters"},
		"two of a name":        {[]policy.Policy{{Name: "a"}, {Name: "a"}}, "name", 0, "two policies"},
		"empty pattern":        {[]policy.Policy{{Name: "a", Allow: []string{"/v1/status", ""}}}, "allow", 1, "empty"},
		"inner star":           {[]policy.Policy{{Name: "a", Allow: []string{"/v1/*/x"}}}, "allow", 0, "not at the end"},
		"two stars":            {[]policy.Policy{{Name: "a", Allow: []string{"/v1/key/**"}}}, "allow", 0, "not at the end"},
		"no slash":             {[]policy.Policy{{Name: "a", Deny: []string{"v1/key/*"}}}, "deny", 0, "start"},
		"unknown path":         {[]policy.Policy{{Name: "a", Allow: []string{"/v1/keys/generate/x"}}}, "allow", 0, "not the path"},
		"unknown version":      {[]policy.Policy{{Name: "a", Allow: []string{"/v2/*"}}}, "allow", 0, "not the path"},
		"upper case":           {[]policy.Policy{{Name: "a", Allow: []string{"/V1/key/generate/x"}}}, "allow", 0, "not the path"},
		"trailing space":       {[]policy.Policy{{Name: "a", Allow: []string{"/v1/status "}}}, "allow", 0, "not the path"},
		"removed path":         {[]policy.Policy{{Name: "a", Allow: []string{"/v1/secret/create/*"}}}, "allow", 0, "removed"},
		"name with a slash":    {[]policy.Policy{{Name: "a", Allow: []string{"/v1/key/generate/a/b"}}}, "allow", 0, "never match"},
		"name with unicode":    {[]policy.Policy{{Name: "a", Allow: []string{"/v1/key/generate/\u00e4*"}}}, "allow", 0, "never match"},
		"no name":              {[]policy.Policy{{Name: "a", Allow: []string{"/v1/key/generate/"}}}, "allow", 0, "never match"},
		"no name, no slash":    {[]policy.Policy{{Name: "a", Allow: []string{"/v1/key/generate"}}}, "allow", 0, "never match"},
		"twice":                {[]policy.Policy{{Name: "a", Allow: []string{"/v1/status", "/v1/status"}}}, "allow", 1, "already"},
		"all denied":           {[]policy.Policy{{Name: "a", Allow: []string{"/v1/key/generate/x-*"}, Deny: []string{"/v1/key/*"}}}, "allow", 0, "denies all"},
		"denied, word by word": {[]policy.Policy{{Name: "a", Allow: []string{"/v1/log/*"}, Deny: []string{"/v1/log/audit", "/v1/log/error"}}}, "allow", 0, "denies all"},
		"no identity":          {[]policy.Policy{{Name: "a", Identities: []policy.Identity{app, "x"}}}, "identities", 1, "64"},
		"upper-case identity":  {[]policy.Policy{{Name: "a", Identities: []policy.Identity{policy.Identity(strings.ToUpper(string(app)))}}}, "identities", 0, "64"},
		"identity twice":       {[]policy.Policy{{Name: "a", Identities: []policy.Identity{app, app}}}, "identities", 1, "this policy"},
		"identity in two":      {[]policy.Policy{{Name: "a", Identities: []policy.Identity{app}}, {Name: "b", Identities: []policy.Identity{app}}}, "identities", 0, `policy "a"`},
		"admin":                {[]policy.Policy{{Name: "a", Identities: []policy.Identity{admin}}}, "identities", 0, "admin"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := policy.Compile(admin, tc.policies)
			e, ok := errors.AsType[*policy.Error](err)
			if !ok {
				t.Fatalf("error is %v", err)
			}
			last := tc.policies[len(tc.policies)-1].Name
			if e.Policy != last || e.Field != tc.field || e.Index != tc.index || !strings.Contains(e.Reason, tc.reason) {
				t.Errorf("error is %+v", e)
			}
		})
	}
}

func TestCompileReportsAllThatIsWrong(t *testing.T) {
	_, err := policy.Compile(admin, []policy.Policy{{Name: "a", Allow: []string{"", "/x"}}, {Name: "b", Deny: []string{"/y"}}})
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 3 {
		t.Errorf("error is %v", err)
	}
}

func TestPatternsOfPublishedPoliciesCompile(t *testing.T) {
	compile(t, policy.Policy{
		Name: "minio",
		Allow: []string{
			"/v1/key/create/*", "/v1/key/generate/*", "/v1/key/decrypt/*", "/v1/key/bulk/decrypt/*", "/v1/key/list/*",
			"/v1/key/describe/*", "/v1/key/hmac/*", "/v1/status", "/v1/metrics", "/v1/log/audit", "/v1/log/error", "/version", "/v1/api", "*",
		},
		Deny: []string{"/v1/key/generate/my-app-internal*"}, Identities: []policy.Identity{app},
	})
}

// naive decides as KES does: by matching the request's path with each pattern.
func naive(p policy.Policy, path string) bool {
	match := func(pattern string) bool {
		if stem, ok := strings.CutSuffix(pattern, "*"); ok {
			return strings.HasPrefix(path, stem)
		}
		return pattern == path
	}
	return !slices.ContainsFunc(p.Deny, match) && slices.ContainsFunc(p.Allow, match)
}

func TestAZ01_MatrixAgreesWithANaiveModel(t *testing.T) {
	names := []string{"a", "ab", "abc", "b", "ba", "a-b", "A", "0", "__", "abcd", "abd"}
	stems := []string{"", "a", "ab", "abc", "b", "a-", "0"}
	cells := 0
	rapid.Check(t, func(rt *rapid.T) {
		pattern := func() string {
			a := rapid.SampledFrom(policy.Actions()).Draw(rt, "action")
			if !a.TakesName() {
				return a.Path()
			}
			if rapid.Bool().Draw(rt, "exact") {
				return a.Path() + rapid.SampledFrom(names).Draw(rt, "name")
			}
			full := a.Path() + rapid.SampledFrom(stems).Draw(rt, "stem")
			return full[:rapid.IntRange(1, len(full)).Draw(rt, "cut")] + "*"
		}
		list := func(n int) (all []string) {
			for range rapid.IntRange(0, n).Draw(rt, "patterns") {
				if p := pattern(); !slices.Contains(all, p) {
					all = append(all, p)
				}
			}
			return all
		}
		p := policy.Policy{Name: "p", Allow: list(6), Deny: list(3), Identities: []policy.Identity{app}}
		r, err := policy.Compile(admin, []policy.Policy{p})
		if err != nil {
			e, _ := errors.AsType[*policy.Error](err)
			if e == nil || !strings.Contains(e.Reason, "no effect") {
				rt.Fatal(err)
			}
			return
		}
		for _, a := range policy.Actions() {
			resources := []string{""}
			if a.TakesName() {
				resources = names
			}
			for _, name := range resources {
				for _, id := range []policy.Identity{admin, app, other} {
					want := id == admin || id == app && naive(p, a.Path()+name)
					if got := r.Authorize(id, a, name).Allowed; got != want {
						rt.Fatalf("%+v: %v %q by %s: %v", p, a, name, id[:2], got)
					}
					cells++
				}
			}
		}
	})
	if cells < 10_000 {
		t.Errorf("%d cells, not at least 10,000", cells)
	}
	t.Logf("%d cells", cells)
}

func FuzzCompile(f *testing.F) {
	f.Fuzz(func(t *testing.T, allow, deny, name string) {
		p := policy.Policy{Name: "p", Allow: []string{allow}, Identities: []policy.Identity{app}}
		if deny != "" {
			p.Deny = []string{deny}
		}
		r, err := policy.Compile(admin, []policy.Policy{p})
		if err != nil || strings.Contains(name, "*") {
			return
		}
		for _, a := range policy.Actions() {
			if !a.TakesName() || name == "" {
				continue
			}
			if got, want := r.Authorize(app, a, name).Allowed, naive(p, a.Path()+name); got != want {
				t.Fatalf("%+v: %v %q: %v", p, a, name, got)
			}
		}
	})
}

func TestAZ11_TenThousandRules(t *testing.T) {
	r := compile(t, many(10_000))
	if n := testing.AllocsPerRun(100, func() { r.Authorize(app, policy.GenerateDataKey, "nobody-has-this-name") }); n != 0 {
		t.Errorf("%v allocations in a decision", n)
	}
}

func BenchmarkAZ11_Authorize(b *testing.B) {
	r := compile(b, many(10_000))
	b.ReportAllocs()
	for b.Loop() {
		r.Authorize(app, policy.GenerateDataKey, "tenant-9999-key")
	}
}

func many(n int) policy.Policy {
	p := policy.Policy{Name: "p", Identities: []policy.Identity{app}}
	for i := range n {
		p.Allow = append(p.Allow, fmt.Sprintf("/v1/key/generate/tenant-%d-*", i))
	}
	return p
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
