package policy_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/policy"
)

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
		"longest, with hyphen": {[]policy.Policy{{Name: "a", Allow: []string{"/v1/key/generate/" + strings.Repeat("a", 79) + "-*"}}}, "allow", 0, "never match"},
		"too long":             {[]policy.Policy{{Name: "a", Allow: []string{"/v1/key/generate/" + strings.Repeat("a", 81)}}}, "allow", 0, "never match"},
		"lone underscore":      {[]policy.Policy{{Name: "a", Allow: []string{"/v1/key/generate/_"}}}, "allow", 0, "never match"},
		"behind a plain path":  {[]policy.Policy{{Name: "a", Allow: []string{"/v1/status/x"}}}, "allow", 0, "not the path"},
		"removed, no slash":    {[]policy.Policy{{Name: "a", Allow: []string{"/v1/enclave*"}}}, "allow", 0, "removed"},
		"removed, one verb":    {[]policy.Policy{{Name: "a", Deny: []string{"/v1/policy/write/*"}}}, "deny", 0, "removed"},
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

func TestCompileTakesADenyThatTakesNothingAway(t *testing.T) {
	compile(t, policy.Policy{Name: "p", Allow: []string{"/v1/status"}, Deny: []string{"/v1/key/*", "/v1/key/delete/x"}})
}

func TestCompileRefusesAnAdminThatIsNoIdentity(t *testing.T) {
	for _, id := range []policy.Identity{"x", policy.Identity(strings.ToUpper(string(admin))), admin[:63], admin + "0"} {
		_, err := policy.Compile(id, nil)
		if e, ok := errors.AsType[*policy.Error](err); !ok || e.Field != "admin" {
			t.Errorf("%q: error is %v", id, err)
		}
	}
}

// TestAZ04: what is almost a name, an identity or a path is refused at load, and
// never taken for the other one.
func TestAZ04_LookAlikesAreRefused(t *testing.T) {
	for _, name := range []string{"a ", " a", "a\t", "a\x00", "a\n", "\u0430", "a\u0308", "\uff41", "a/", "/a", "a.b", "a%62", "-a", "a-"} {
		for _, path := range []string{"/v1/key/generate/", "/v1/policy/read/", "/v1/identity/describe/"} {
			if _, err := policy.Compile(admin, []policy.Policy{{Name: "p", Allow: []string{path + name}}}); err == nil {
				t.Errorf("pattern %q compiles", path+name)
			}
		}
		if _, err := policy.Compile(admin, []policy.Policy{{Name: name}}); err == nil {
			t.Errorf("policy %q compiles", name)
		}
		if _, err := policy.Compile(admin, []policy.Policy{{Name: "p", Identities: []policy.Identity{app + policy.Identity(name)}}}); err == nil {
			t.Errorf("identity with %q behind it compiles", name)
		}
	}
	for _, path := range []string{"/V1/key/generate/a", "/v1/Key/generate/a", "/v1/key/generate//a", "//v1/key/generate/a", "/v1/key/./generate/a", "/v1/key/../key/generate/a", "/v1/key/generate/../generate/a", " /v1/status", "/v1/status\t", "/v1/st\u0430tus"} {
		if _, err := policy.Compile(admin, []policy.Policy{{Name: "p", Allow: []string{path}}}); err == nil {
			t.Errorf("pattern %q compiles", path)
		}
	}
	r := compile(t, policy.Policy{Name: "p", Allow: []string{"/v1/key/generate/app"}, Identities: []policy.Identity{app}})
	for _, name := range []string{"App", "APP", "app ", "app/", "/app", "ap", "appp", "\u0430pp", ""} {
		if r.Authorize(app, policy.GenerateDataKey, name).Allowed {
			t.Errorf("%q passes for app", name)
		}
	}
	if r.Authorize(policy.Identity(strings.ToUpper(string(app))), policy.GenerateDataKey, "app").Allowed {
		t.Error("an upper-case identity passes")
	}
}

// TestAZ05: nothing but one "*" at the end of a pattern has a meaning of its own.
func TestAZ05_NoOtherCharacterIsAPattern(t *testing.T) {
	for _, name := range []string{"a?", "?", "a+", ".", "[a-z]", "{a,b}", "${HOME}", "$a", "\\*", "a|b", "**", "*a", "a*b", "a**", "%2a", "^a$"} {
		if _, err := policy.Compile(admin, []policy.Policy{{Name: "p", Allow: []string{"/v1/key/generate/" + name}}}); err == nil {
			t.Errorf("pattern with %q compiles", name)
		}
	}
	// A "*" in a request is no pattern: it is the name, which no key has.
	r := compile(t, policy.Policy{Name: "p", Allow: []string{"/v1/key/generate/a", "/v1/key/list/ab*"}, Identities: []policy.Identity{app}})
	for _, name := range []string{"*", "a*", "${a}", "?"} {
		if r.Authorize(app, policy.GenerateDataKey, name).Allowed {
			t.Errorf("%q passes for a", name)
		}
	}
	for _, prefix := range []string{"*", "a*", "**", "ab**x", "a"} {
		if got := r.Authorize(app, policy.ListKeys, prefix).Allowed; got != (prefix == "ab**x") {
			t.Errorf("listing %q: %v", prefix, got)
		}
	}
}

// TestNamesAreThoseOfTheKeyStore: the rule is written here, too, as this package
// imports none of the project.
func TestNamesAreThoseOfTheKeyStore(t *testing.T) {
	exact := func(name string) bool {
		_, err := policy.Compile(admin, []policy.Policy{{Name: name}})
		return err == nil
	}
	prefix := func(s string) bool {
		_, err := policy.Compile(admin, []policy.Policy{{Name: "p", Allow: []string{"/v1/key/list/" + s}}})
		return err == nil
	}
	if longest := strings.Repeat("a", keystore.MaxNameLen); !exact(longest) || exact(longest+"a") || !prefix(longest) || prefix(longest+"a") {
		t.Error("the longest name is not that of the key store")
	}
	names := rapid.OneOf(rapid.StringMatching(`[-_0-9A-Za-z]{0,82}`), rapid.String(), rapid.StringMatching(`[-_a/ .]{0,3}`))
	rapid.Check(t, func(rt *rapid.T) {
		s := names.Draw(rt, "name")
		if exact(s) != keystore.ValidName(s) {
			rt.Errorf("%q is a name: %v", s, exact(s))
		}
		if strings.Contains(s, "*") {
			return
		}
		if prefix(s) != keystore.ValidPrefix(s) {
			rt.Errorf("%q begins names: %v", s, prefix(s))
		}
	})
}

func TestIdentityOfIsTheHashOfThePublicKey(t *testing.T) {
	spki := []byte("DER of a public key")
	sum := sha256.Sum256(spki)
	id := policy.IdentityOf(spki)
	if string(id) != hex.EncodeToString(sum[:]) {
		t.Errorf("identity is %q", id)
	}
	if got, err := policy.ParseIdentity(string(id)); err != nil || got != id {
		t.Errorf("is read as %q, error %v", got, err)
	}
	for _, s := range []string{"", string(id[:62]), string(id) + "00", strings.ToUpper(string(id)), "0x" + string(id[2:]), string(id[:63]) + "g"} {
		if got, err := policy.ParseIdentity(s); err == nil || got != "" {
			t.Errorf("%q is read as %q", s, got)
		}
	}
}
