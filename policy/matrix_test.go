package policy_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/policy"
)

// matches decides as KES does: a path and a pattern, character by character.
func matches(pattern, path string) bool {
	if stem, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, stem)
	}
	return pattern == path
}

// spellings are the paths of one request: a plain path has a slash behind it or
// not, so has a listing of everything.
func spellings(a policy.Action, resource string) []string {
	path := a.Path() + resource
	switch {
	case a.TakesName() || resource != "":
		return []string{path}
	case a.Lists():
		return []string{path, strings.TrimSuffix(path, "/")}
	}
	return []string{path, path + "/"}
}

func anyMatches(patterns []string, a policy.Action, resource string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		return slices.ContainsFunc(spellings(a, resource), func(path string) bool { return matches(pattern, path) })
	})
}

// naive is the model: it knows nothing of actions but their paths.
func naive(p policy.Policy, a policy.Action, resource string) bool {
	return !anyMatches(p.Deny, a, resource) && anyMatches(p.Allow, a, resource)
}

var (
	names    = []string{"a", "ab", "abc", "b", "ba", "a-b", "A", "0", "__", "abcd", "abd"}
	prefixes = []string{"", "a", "ab", "abc", "a-", "b", "0", "_"}
)

// resources are what the matrix asks an action for.
func resources(a policy.Action) []string {
	switch {
	case a.TakesName():
		return names
	case a.Lists():
		return prefixes
	}
	return []string{""}
}

// drawPattern draws a pattern that is no mistake.
func drawPattern(rt *rapid.T) string {
	a := rapid.SampledFrom(policy.Actions()).Draw(rt, "action")
	full := a.Path() + rapid.SampledFrom(resources(a)).Draw(rt, "resource")
	if rapid.Bool().Draw(rt, "open") {
		return full[:rapid.IntRange(0, len(full)).Draw(rt, "cut")] + "*"
	}
	if a.Lists() && full == a.Path() && rapid.Bool().Draw(rt, "without slash") {
		return strings.TrimSuffix(full, "/")
	}
	return full
}

func drawPolicy(rt *rapid.T, name string, id policy.Identity) policy.Policy {
	list := func(field string, n int) []string {
		return rapid.SliceOfNDistinct(rapid.Custom(drawPattern), 0, n, rapid.ID).Draw(rt, field)
	}
	return policy.Policy{Name: name, Allow: list("allow", 6), Deny: list("deny", 3), Identities: []policy.Identity{id}}
}

func TestAZ01_MatrixAgreesWithANaiveModel(t *testing.T) {
	cells, allowed, dead := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		p, q := drawPolicy(rt, "p", app), drawPolicy(rt, "q", other)
		rules, err := policy.Compile(admin, []policy.Policy{p, q})
		if err != nil {
			checkDead(rt, err, map[string]policy.Policy{"p": p, "q": q})
			dead++
			return
		}
		for _, a := range policy.Actions() {
			for _, resource := range resources(a) {
				for id, want := range map[policy.Identity]policy.Decision{
					admin:               {Allowed: true, Admin: true},
					app:                 {Allowed: naive(p, a, resource), Policy: "p"},
					other:               {Allowed: naive(q, a, resource), Policy: "q"},
					app[:63] + "1":      {},
					policy.Identity(""): {},
				} {
					if got := rules.Authorize(id, a, resource); got != want {
						rt.Fatalf("%+v, %+v: %v %q by %q: %+v, not %+v", p, q, a, resource, id, got, want)
					}
					if a.Lists() && rules.Authorize(id, a, resource+"*") != want {
						rt.Fatalf("%+v, %+v: %v %q by %q: another answer than without the *", p, q, a, resource+"*", id)
					}
					if want.Allowed && !want.Admin {
						allowed++
					}
					cells++
				}
			}
		}
	})
	if cells < 10_000 || allowed < 1_000 {
		t.Errorf("%d cells, %d allowed by a policy: too few to mean much", cells, allowed)
	}
	t.Logf("%d cells, %d allowed by a policy; %d sets of policies refused", cells, allowed, dead)
}

// checkDead checks that all that err refuses is an allow without effect, and
// that it has none.
func checkDead(rt *rapid.T, err error, policies map[string]policy.Policy) {
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		e, ok := errors.AsType[*policy.Error](err)
		if !ok || e.Field != "allow" || !strings.Contains(e.Reason, "no effect") {
			rt.Fatal(err)
		}
		p := policies[e.Policy]
		p.Allow = p.Allow[e.Index : e.Index+1]
		for _, a := range policy.Actions() {
			for _, resource := range resources(a) {
				if naive(p, a, resource) {
					rt.Fatalf("%v, but it allows %v %q", err, a, resource)
				}
			}
		}
	}
}

// FuzzCompile: whatever compiles decides as the model does, for any name.
func FuzzCompile(f *testing.F) {
	f.Fuzz(func(t *testing.T, allow, deny, name string) {
		p := policy.Policy{Name: "p", Allow: []string{allow}, Identities: []policy.Identity{app}}
		if deny != "" {
			p.Deny = []string{deny}
		}
		rules, err := policy.Compile(admin, []policy.Policy{p})
		if err != nil {
			return
		}
		for _, a := range policy.Actions() {
			valid := a.TakesName() && keystore.ValidName(name) || a.Lists() && keystore.ValidPrefix(name)
			if !valid && name != "" || a.TakesName() && name == "" {
				continue
			}
			if got, want := rules.Authorize(app, a, name).Allowed, naive(p, a, name); got != want {
				t.Fatalf("%+v: %v %q: %v", p, a, name, got)
			}
		}
	})
}

// FuzzPattern: a pattern that compiles matches some request.
func FuzzPattern(f *testing.F) {
	f.Fuzz(func(t *testing.T, pattern string) {
		rules, err := policy.Compile("", []policy.Policy{{Name: "p", Allow: []string{pattern}, Identities: []policy.Identity{app}}})
		if err != nil {
			if e, ok := errors.AsType[*policy.Error](err); !ok || e.Field != "allow" || e.Index != 0 || e.Reason == "" {
				t.Fatalf("error is %#v", err)
			}
			return
		}
		for _, a := range policy.Actions() {
			rest := strings.TrimPrefix(strings.TrimSuffix(pattern, "*"), a.Path())
			for _, resource := range []string{"", "a", rest, rest + "a"} {
				valid := a.TakesName() && keystore.ValidName(resource) || a.Lists() && keystore.ValidPrefix(resource) || resource == "" && !a.TakesName()
				if valid && rules.Authorize(app, a, resource).Allowed {
					return
				}
			}
		}
		t.Fatalf("%q compiles, and matches no request", pattern)
	})
}

// TestFuzzTargetsHaveSeeds: a target whose seeds were moved tests nothing.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	for _, target := range []string{"FuzzCompile", "FuzzPattern"} {
		if seeds, err := filepath.Glob("testdata/fuzz/" + target + "/*"); err != nil || len(seeds) < 5 {
			t.Errorf("%s has %d seeds, error %v", target, len(seeds), err)
		}
	}
}

// many is a policy of n rules, with prefixes of every length and a deny that is
// as long.
func many(n int) policy.Policy {
	p := policy.Policy{Name: "p", Identities: []policy.Identity{app}}
	for i := range n {
		name := fmt.Sprintf("%0*d", 5+i%68, i)
		p.Allow = append(p.Allow, "/v1/key/generate/"+name+"-*")
		p.Deny = append(p.Deny, "/v1/key/generate/"+name+"-secret*", "/v1/key/decrypt/"+name)
	}
	return p
}

func TestAZ11_ADecisionAmongTenThousandRulesIsQuick(t *testing.T) {
	start := time.Now()
	rules := compile(t, many(10_000))
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("compiled in %v", d)
	}
	longest := strings.Repeat("0", keystore.MaxNameLen) // every length is looked up
	for _, tc := range []struct {
		name    string
		allowed bool
	}{{"00000-key", true}, {"00000-secret", false}, {"00000", false}, {longest, false}} {
		if got := rules.Authorize(app, policy.GenerateDataKey, tc.name).Allowed; got != tc.allowed {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { rules.Authorize(app, policy.GenerateDataKey, longest) }); n != 0 {
		t.Errorf("%v allocations in a decision", n)
	}
	const runs = 1000
	start = time.Now()
	for range runs {
		rules.Authorize(app, policy.GenerateDataKey, longest)
	}
	if d := time.Since(start) / runs; d > time.Millisecond {
		t.Errorf("a decision takes %v", d)
	}
}

func BenchmarkAZ11_Authorize(b *testing.B) {
	rules := compile(b, many(10_000))
	for _, name := range []string{"00000-key", strings.Repeat("0", keystore.MaxNameLen)} {
		b.Run(fmt.Sprintf("name=%d", len(name)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rules.Authorize(app, policy.GenerateDataKey, name)
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	p := many(10_000)
	b.ReportAllocs()
	for b.Loop() {
		compile(b, p)
	}
}
