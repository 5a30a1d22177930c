package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"
)

// A Plan is what Init would do with a token: whether it has the mechanisms, which root
// keys are there and what was found out about them, and with which templates those
// would be made that are not.
type Plan struct {
	Token  TokenInfo    `json:"token"`
	Checks []Check      `json:"checks"` // of mechanisms, and of the keys that are there
	Make   []PlannedKey `json:"make"`
}

// OK reports whether nothing is known that would have Init refuse the token.
func (p Plan) OK() bool { return refused(p.Checks) == nil }

// A PlannedKey is a call of C_GenerateKey that Init would make.
type PlannedKey struct {
	Label     string             `json:"label"`
	Mechanism string             `json:"mechanism"`
	Template  []PlannedAttribute `json:"template"` // in the order in which the token gets them
	// Optional attributes follow, where the token knows them: if it refuses the
	// template, the key is tried again without the last of them, and so on.
	Optional []PlannedAttribute `json:"optional"`
}

// A PlannedAttribute has its value in text: a number, a name, or "true".
type PlannedAttribute struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// PlanInit looks at the token that cfg names, and returns what InitWith would do now. It
// logs in once, in a read-only session, and makes nothing that stays: whether the token
// can have a KEK that can be replaced is tried out with session objects.
func PlanInit(ctx context.Context, cfg Config, o InitOptions) (Plan, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Plan{}, err
	}
	if cfg, err = cfg.only(); err != nil {
		return Plan{}, err
	}
	if err := o.check(cfg); err != nil {
		return Plan{}, err
	}
	t, err := cfg.alone(ctx, false)
	if err != nil {
		return Plan{}, err
	}
	plan := Plan{Checks: []Check{}, Make: []PlannedKey{}}
	err = t.session(ctx, 0, func(s session) error { return s.planRootKeys(cfg, o, &plan) })
	return plan, errors.Join(err, t.end())
}

// planRootKeys notes in plan what makeRootKeys would do.
func (s session) planRootKeys(c Config, o InitOptions, plan *Plan) error {
	plan.Token = s.link.token
	kek, record, err := s.rootKeysThere(c)
	if err != nil {
		return err
	}
	checks, err := s.examine(c)
	plan.Checks = append(plan.Checks, slices.DeleteFunc(checks, isMissing)...)
	if err != nil {
		return err
	}
	s.link.plan = plan
	if !kek {
		if err := s.makeKEK(c, o); err != nil {
			return err
		}
	}
	if !record {
		return s.makeRecordKey(c.RecordKey, o)
	}
	return nil
}

// isMissing reports whether c is about a key that is not there.
func isMissing(c Check) bool {
	_, missing := errors.AsType[*notFoundError](c.err)
	return missing
}

// add notes a token object in the place of making it.
func (p *Plan) add(mechanism uint, label string, template, optional []*pkcs11.Attribute) {
	p.Make = append(p.Make, PlannedKey{Label: label, Mechanism: mechanismName(mechanism), Template: plannedAttributes(template), Optional: plannedAttributes(optional)})
}

func plannedAttributes(template []*pkcs11.Attribute) []PlannedAttribute {
	all := make([]PlannedAttribute, len(template))
	for i, a := range template {
		all[i] = PlannedAttribute{attributeName(a.Type), attributeText(a)}
	}
	return all
}

// attributeText returns the value of an attribute as people write it.
func attributeText(a *pkcs11.Attribute) string {
	switch a.Type {
	case pkcs11.CKA_LABEL:
		return fmt.Sprintf("%q", a.Value)
	case pkcs11.CKA_ID:
		return fmt.Sprintf("%d random bytes", len(a.Value))
	case pkcs11.CKA_UNWRAP_TEMPLATE:
		var inner []string
		for _, i := range attributesIn(a.Value) {
			inner = append(inner, attributeName(i.Type)+"="+attributeText(i))
		}
		return "{" + strings.Join(inner, ", ") + "}"
	}
	if len(a.Value) == 1 {
		return fmt.Sprint(a.Value[0] != 0)
	}
	n, err := ulong(a.Value)
	if err != nil {
		return fmt.Sprintf("%x", a.Value)
	}
	switch a.Type {
	case pkcs11.CKA_CLASS:
		return nameOf(classNames, "CKO", n)
	case pkcs11.CKA_KEY_TYPE:
		return nameOf(keyTypeNames, "CKK", n)
	}
	return fmt.Sprint(n)
}

// isTokenObject reports whether a template is of an object that stays.
func isTokenObject(template []*pkcs11.Attribute) bool {
	for _, a := range template {
		if a.Type == pkcs11.CKA_TOKEN {
			return len(a.Value) == 1 && a.Value[0] != 0
		}
	}
	return false
}
