package policy

import "fmt"

// A Policy says what its identities may do. Allow and Deny hold patterns: a URL
// path, or the beginning of one with a "*" behind it, which stands for anything,
// slashes too. What a Deny matches is denied, then what an Allow matches is
// allowed; all else is denied.
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
	Policy string // its name, "" where Field is "admin"
	Field  string // "name", "allow", "deny", "identities" or "admin"
	Index  int    // in that field, from 0
	Reason string
}

func (e *Error) Error() string {
	switch e.Field {
	case "admin":
		return "policy: admin: " + e.Reason
	case "name":
		return fmt.Sprintf("policy %q: %s", e.Policy, e.Reason)
	}
	return fmt.Sprintf("policy %q: %s[%d]: %s", e.Policy, e.Field, e.Index, e.Reason)
}
