package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Compile checks policies and compiles them. admin may do everything; if it is
// empty there is none. The error joins all that is wrong, each an *Error: a
// pattern that is malformed, names an unknown path or can never take effect,
// and an identity that is no identity or has another policy. A deny that takes
// nothing away from an allow is no error: it may guard against a later one.
func Compile(admin Identity, policies []Policy) (*Rules, error) {
	c := compiler{rules: &Rules{admin: admin, policies: make(map[string]*compiled), identities: make(map[Identity]*compiled)}}
	if _, err := ParseIdentity(string(admin)); admin != "" && err != nil {
		c.errs = append(c.errs, &Error{Field: "admin", Reason: fmt.Sprintf("%q is not 64 lower-case hex digits", admin)})
	}
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
	if !validName(p.Name) {
		c.fail(p, "name", 0, "name is empty, too long or contains invalid characters")
	}
	if c.rules.policies[p.Name] != nil {
		c.fail(p, "name", 0, "there are two policies of that name")
	}
	c.rules.policies[p.Name] = p
	c.patterns(p, "deny", p.Deny, func(_ int, rules []actionRule) {
		for _, r := range rules {
			p.deny[r.action].add(r.rule)
		}
	})
	c.patterns(p, "allow", p.Allow, func(i int, rules []actionRule) {
		dead := true
		for _, r := range rules {
			p.allow[r.action].add(r.rule)
			dead = dead && p.deny[r.action].covers(r.rule)
		}
		if dead {
			c.fail(p, "allow", i, "%q has no effect: this policy denies all of it", p.Allow[i])
		}
	})
	c.assign(p)
}

// An actionRule is a rule with its action.
type actionRule struct {
	action Action
	rule
}

// patterns calls add with what each pattern of one field means.
func (c *compiler) patterns(p *compiled, field string, patterns []string, add func(i int, rules []actionRule)) {
	seen := make(map[string]int, len(patterns))
	for i, s := range patterns {
		if first, ok := seen[s]; ok {
			c.fail(p, field, i, "%q is there already, as %s[%d]", s, field, first)
			continue
		}
		seen[s] = i
		rules, reason := parseRules(s)
		if reason != "" {
			c.fail(p, field, i, "%q %s", s, reason)
			continue
		}
		add(i, rules)
	}
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
	case slices.ContainsFunc(removed, func(old string) bool { return strings.HasPrefix(p.stem+"/", old) }):
		return nil, "is a path that KES has removed (in 2023, or before); delete the line"
	}
	return nil, "is not the path of any operation"
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
