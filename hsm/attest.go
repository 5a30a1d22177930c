package hsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// A rule is what an attribute of a root key must be, and why.
type rule struct {
	attribute uint
	name      string
	want      bool
	why       string
}

const (
	whyLeaves = "the key could leave the token"
	whyMade   = "it was not made in the token, or has been outside of it"
	whyClulow = "with it, and CKA_WRAP, the keys that it wraps could be read out"
	whyUsage  = "the key is for one purpose only"
)

// The rules of both keys.
var secret = []rule{
	{pkcs11.CKA_TOKEN, "CKA_TOKEN", true, "it would be gone with the session"},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true, "it could be used without a login"},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, whyLeaves},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, whyLeaves},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true, whyMade},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, whyMade},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL", true, whyMade},
}

// What to wrap and decrypt with the same key allows: J. Clulow, On the Security
// of PKCS #11, CHES 2003.
var kekRules = append(secret[:len(secret):len(secret)],
	rule{pkcs11.CKA_WRAP, "CKA_WRAP", true, "it wraps the master keys"},
	rule{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", true, "it unwraps the master keys"},
	rule{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT", false, whyUsage},
	rule{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false, whyClulow},
	rule{pkcs11.CKA_SIGN, "CKA_SIGN", false, whyUsage},
	rule{pkcs11.CKA_VERIFY, "CKA_VERIFY", false, whyUsage},
	rule{pkcs11.CKA_DERIVE, "CKA_DERIVE", false, whyUsage},
)

var recordRules = append(secret[:len(secret):len(secret)],
	rule{pkcs11.CKA_SIGN, "CKA_SIGN", true, "it authenticates key records"},
	rule{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT", false, whyUsage},
	rule{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false, whyUsage},
	rule{pkcs11.CKA_WRAP, "CKA_WRAP", false, whyUsage},
	rule{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", false, whyUsage},
	rule{pkcs11.CKA_DERIVE, "CKA_DERIVE", false, whyUsage},
)

// A Check is one thing that was looked at, and what was found.
type Check struct {
	What  string `json:"what"`
	Found string `json:"found"`
	OK    bool   `json:"ok"`
	Why   string `json:"why,omitempty"` // what is wrong with it
}

// attest checks the attributes of a root key. The error is that of the token,
// not what the checks say.
func (s session) attest(label string, key pkcs11.ObjectHandle, kind uint, rules []rule) ([]Check, error) {
	checks := make([]Check, 0, len(rules)+2)
	add := func(name, found string, ok bool, why string) {
		c := Check{What: label + ": " + name, Found: found, OK: ok}
		if !ok {
			c.Why = why
		}
		checks = append(checks, c)
	}
	got, err := s.number(key, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	add("CKA_KEY_TYPE", fmt.Sprintf("0x%x", got), got == kind, fmt.Sprintf("it is not 0x%x", kind))
	got, err = s.number(key, pkcs11.CKA_VALUE_LEN)
	if err != nil {
		return nil, err
	}
	add("CKA_VALUE_LEN", fmt.Sprint(got), got == kms.KeySize, fmt.Sprintf("it is not %d", kms.KeySize))
	for _, r := range rules {
		value, err := s.attribute(key, r.attribute)
		if c, ok := classOf(err); ok && c == requestFault {
			add(r.name, "absent", !r.want, "the token cannot tell, and it must be true")
			continue
		}
		if err != nil {
			return nil, err
		}
		is := len(value) == 1 && value[0] != 0
		add(r.name, fmt.Sprint(is), is == r.want, fmt.Sprintf("it must be %v: %s", r.want, r.why))
	}
	return checks, nil
}

// refusals returns an error that names each check that is not OK, or nil.
func refusals(checks []Check) error {
	var all []error
	for _, c := range checks {
		if !c.OK {
			all = append(all, fmt.Errorf("hsm: %s is %s: %s: %w", c.What, c.Found, c.Why, kms.ErrDenied))
		}
	}
	return errors.Join(all...)
}

func (s session) attribute(key pkcs11.ObjectHandle, attribute uint) ([]byte, error) {
	got, err := s.link.module.ctx.GetAttributeValue(s.handle, key, []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
	if err != nil {
		return nil, answered("C_GetAttributeValue", err)
	}
	return got[0].Value, nil
}

// number returns an attribute that is a CK_ULONG of this machine.
func (s session) number(key pkcs11.ObjectHandle, attribute uint) (uint, error) {
	value, err := s.attribute(key, attribute)
	if err != nil {
		return 0, err
	}
	return ulong(value)
}
