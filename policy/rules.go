package policy

import (
	"maps"
	"slices"
)

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

// Authorize decides whether id may do a with resource: the name, or for a
// listing what it asks for, or "" for an action that takes neither.
func (r *Rules) Authorize(id Identity, a Action, resource string) Decision {
	s := r.Subject(id)
	return Decision{Allowed: s.Allows(a, resource), Admin: s.admin, Policy: s.Policy()}
}

// A Subject is an identity as some Rules see it. It is immutable. The zero
// Subject may do nothing.
type Subject struct {
	admin bool
	rules *compiled // nil: of no policy
}

// Subject returns id as r sees it, for many decisions about it.
func (r *Rules) Subject(id Identity) Subject {
	return Subject{admin: id != "" && id == r.admin, rules: r.identities[id]}
}

// Allows decides as Authorize does.
func (s Subject) Allows(a Action, resource string) bool {
	switch {
	case s.admin:
		return true
	case s.rules == nil || a == 0 || a >= numActions:
		return false
	case a.Lists():
		resource = ListPrefix(resource)
	}
	return !s.rules.deny[a].match(resource) && s.rules.allow[a].match(resource)
}

// Policy returns the name of the subject's policy, "" if it has none.
func (s Subject) Policy() string {
	if s.rules == nil {
		return ""
	}
	return s.rules.Name
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
	return r.Subject(id).Policy()
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
