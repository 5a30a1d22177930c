package hsm

import (
	"fmt"
	"strings"

	"github.com/keygate/keygate/kms"
)

// A Check is one thing that was looked at in the token, and what was found.
type Check struct {
	What  string `json:"what"`
	Found string `json:"found"`
	OK    bool   `json:"ok"`
	Why   string `json:"why,omitempty"` // if not OK, or accepted: what is wrong with it

	err error // what it is for Open
}

// verdict returns a check of something that the operator decided.
func verdict(what, found string, ok bool, why string) Check {
	c := Check{What: what, Found: found, OK: ok}
	if !ok {
		c.Why, c.err = why, kms.ErrDenied
	}
	return c
}

// tried returns a check of something that was done.
func tried(what string, err error) Check {
	if err != nil {
		return Check{What: what, Found: "failed", Why: err.Error(), err: err}
	}
	return Check{What: what, Found: "works", OK: true}
}

// A refusal is an error that says all that is wrong with a token.
type refusal []Check

func (r refusal) Error() string {
	var text []string
	for _, c := range r {
		text = append(text, fmt.Sprintf("%s is %s: %s", c.What, c.Found, c.Why))
	}
	return "hsm: the token cannot be used: " + strings.Join(text, "; ")
}

func (r refusal) Unwrap() []error {
	var errs []error
	for _, c := range r {
		errs = append(errs, c.err)
	}
	return errs
}

// refused returns nil if every check is OK.
func refused(checks []Check) error {
	var bad refusal
	for _, c := range checks {
		if !c.OK {
			bad = append(bad, c)
		}
	}
	if bad == nil {
		return nil
	}
	return bad
}
