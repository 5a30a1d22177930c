package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keygate/keygate/keystore"
)

// A Policy says what its identities may do. Allow and Deny hold patterns: a URL
// path, or the beginning of one with a "*" behind it. What a Deny matches is
// denied, then what an Allow matches is allowed; all else is denied.
//
// A listing is allowed if the beginning of names that it asks for begins as the
// rule's: "/v1/key/list/my-*" allows list/my-, list/my-* and list/my-app, not
// list/*. "/v1/key/list", "/v1/key/list/" and "/v1/key/list/*" allow list/ and
// list/*, the last also all else.
type Policy struct {
	Name       string
	Allow      []string
	Deny       []string
	Identities []Identity
}

// An Error is one thing that is wrong with a policy.
type Error struct {
	Policy string
	Field  string // "name", "allow", "deny" or "identities"
	Index  int    // in that field
	Reason string
}

func (e *Error) Error() string {
	if e.Field == "name" {
		return fmt.Sprintf("policy %q: %s", e.Policy, e.Reason)
	}
	return fmt.Sprintf("policy %q: %s[%d]: %s", e.Policy, e.Field, e.Index, e.Reason)
}

// Rules are compiled policies. They are immutable and safe for concurrent use.
type Rules struct {
	admin      Identity
	policies   map[string]*compiled
	identities map[Identity]*compiled
}

type compiled struct {
	Policy
	allow, deny [numActions]matcher
}

// A Decision is the answer of Authorize.
type Decision struct {
	Allowed bool
	Admin   bool
	Policy  string // of the identity; "" for the admin and for those without one
}

// Compile checks policies and compiles them. admin may do everything; if it is
// empty there is none. The error joins all that is wrong, each an *Error: a
// pattern that is malformed, names an unknown path or can never take effect,
// and an identity that is no identity or has another policy.
func Compile(admin Identity, policies []Policy) (*Rules, error) {
	c := compiler{rules: &Rules{admin: admin, policies: make(map[string]*compiled), identities: make(map[Identity]*compiled)}}
	for _, p := range policies {
		c.policy(p)
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return c.rules, nil
}

type compiler struct {
	rules *Rules
	errs  []error
}

func (c *compiler) fail(p *compiled, field string, index int, format string, args ...any) {
	c.errs = append(c.errs, &Error{Policy: p.Name, Field: field, Index: index, Reason: fmt.Sprintf(format, args...)})
}

func (c *compiler) policy(source Policy) {
	p := &compiled{Policy: Policy{source.Name, slices.Clone(source.Allow), slices.Clone(source.Deny), slices.Clone(source.Identities)}}
	if !keystore.ValidName(p.Name) {
		c.fail(p, "name", 0, "name is empty, too long or contains invalid characters")
	}
	if c.rules.policies[p.Name] != nil {
		c.fail(p, "name", 0, "there are two policies of that name")
	}
	c.rules.policies[p.Name] = p
	denied := c.patterns(p, "deny", p.Deny, &p.deny)
	allowed := c.patterns(p, "allow", p.Allow, &p.allow)
	for i, rules := range allowed {
		if len(rules) > 0 && allCovered(rules, denied) {
			c.fail(p, "allow", i, "%q has no effect: this policy denies all of it", p.Allow[i])
		}
	}
	c.assign(p)
}

// An actionRule is a rule with its action.
type actionRule struct {
	action Action
	rule
}

// patterns adds the patterns of one field to m and returns, for each, its rules.
func (c *compiler) patterns(p *compiled, field string, patterns []string, m *[numActions]matcher) [][]actionRule {
	all := make([][]actionRule, len(patterns))
	for i, s := range patterns {
		if first := slices.Index(patterns, s); first < i {
			c.fail(p, field, i, "%q is there already, as %s[%d]", s, field, first)
			continue
		}
		rules, reason := parseRules(s)
		if reason != "" {
			c.fail(p, field, i, "%q %s", s, reason)
			continue
		}
		for _, r := range rules {
			m[r.action].add(r.rule)
		}
		all[i] = rules
	}
	return all
}

// parseRules returns what a pattern means for each action, or why it can never
// match a request.
func parseRules(s string) (rules []actionRule, reason string) {
	p, reason := parsePattern(s)
	if reason != "" {
		return nil, reason
	}
	known := false
	for _, a := range Actions() {
		r, ok := p.on(a)
		known = known || ok
		if ok && r.valid(a) {
			rules = append(rules, actionRule{a, r})
		}
	}
	switch {
	case len(rules) > 0:
		return rules, ""
	case known:
		return nil, "can never match a request: what follows the path is no valid name"
	case slices.ContainsFunc(removed, func(old string) bool { return strings.HasPrefix(p.stem, old) }):
		return nil, "is a path that KES has removed; delete the line"
	}
	return nil, "is not the path of any operation"
}

func allCovered(rules []actionRule, denied [][]actionRule) bool {
	for _, r := range rules {
		if !slices.ContainsFunc(denied, func(d []actionRule) bool {
			return slices.ContainsFunc(d, func(d actionRule) bool { return d.action == r.action && d.covers(r.rule) })
		}) {
			return false
		}
	}
	return true
}

func (c *compiler) assign(p *compiled) {
	for i, id := range p.Identities {
		_, err := ParseIdentity(string(id))
		other := c.rules.identities[id]
		switch {
		case err != nil:
			c.fail(p, "identities", i, "%q is not 64 lower-case hex digits", id)
		case id == c.rules.admin:
			c.fail(p, "identities", i, "%q is the admin, who may do everything", id)
		case other == p:
			c.fail(p, "identities", i, "%q is in this policy already", id)
		case other != nil:
			c.fail(p, "identities", i, "%q is in policy %q already", id, other.Name)
		default:
			c.rules.identities[id] = p
		}
	}
}

// Authorize decides whether id may do a with resource: the name, or for a
// listing what it asks for, or "" for an action that takes neither.
func (r *Rules) Authorize(id Identity, a Action, resource string) Decision {
	if id != "" && id == r.admin {
		return Decision{Allowed: true, Admin: true}
	}
	p := r.identities[id]
	if p == nil || a == 0 || a >= numActions {
		return Decision{}
	}
	if a.Lists() {
		resource = ListPrefix(resource)
	}
	allowed := !p.deny[a].match(resource) && p.allow[a].match(resource)
	return Decision{Allowed: allowed, Policy: p.Name}
}

// Hides reports whether a name is to be left out of a listing for id, because
// id's policy denies to list it.
func (r *Rules) Hides(id Identity, a Action, name string) bool {
	p := r.identities[id]
	return p != nil && p.deny[a].match(name)
}

// Admin returns the identity that may do everything, "" if there is none.
func (r *Rules) Admin() Identity { return r.admin }

// PolicyOf returns the name of id's policy, "" if it has none.
func (r *Rules) PolicyOf(id Identity) string {
	if p := r.identities[id]; p != nil {
		return p.Name
	}
	return ""
}

// Policy returns the policy of that name. The caller must not change its slices.
func (r *Rules) Policy(name string) (p Policy, ok bool) {
	if c := r.policies[name]; c != nil {
		return c.Policy, true
	}
	return Policy{}, false
}

// Policies returns the names of all policies, in ascending order.
func (r *Rules) Policies() []string { return slices.Sorted(maps.Keys(r.policies)) }

// Identities returns all identities, the admin among them, in ascending order.
func (r *Rules) Identities() []Identity {
	all := slices.Collect(maps.Keys(r.identities))
	if r.admin != "" {
		all = append(all, r.admin)
	}
	slices.Sort(all)
	return all
}
