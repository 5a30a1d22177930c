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
	optional  bool // passed over where the token does not know the attribute
}

const (
	whyLeaves = "the key could leave the token"
	whyMade   = "it was not made in the token, or has been outside of it"
	whyClulow = "with it, and CKA_WRAP, the keys that it wraps could be read out"
	whyUsage  = "the key is for one purpose only"
	whyLater  = "what it may be used for could be changed later"
	whyLost   = "every master key is lost with it"
)

// The rules of both keys.
var secret = []rule{
	{pkcs11.CKA_TOKEN, "CKA_TOKEN", true, "it would be gone with the session", false},
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true, "it could be used without a login", false},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, whyLeaves, false},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, whyLeaves, false},
	{pkcs11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true, whyMade, false},
	{pkcs11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, whyMade, false},
	{pkcs11.CKA_LOCAL, "CKA_LOCAL", true, whyMade, false},
	{pkcs11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false, whyLater, true},
	{pkcs11.CKA_COPYABLE, "CKA_COPYABLE", false, whyLater, true},
	{pkcs11.CKA_DESTROYABLE, "CKA_DESTROYABLE", false, whyLost, true}, // new in PKCS#11 v2.40
}

// What to wrap and decrypt with the same key allows: J. Clulow, On the Security
// of PKCS #11, CHES 2003.
var kekRules = append(secret[:len(secret):len(secret)],
	rule{pkcs11.CKA_WRAP, "CKA_WRAP", true, "it wraps the master keys", false},
	rule{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", true, "it unwraps the master keys", false},
	rule{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT", false, whyUsage, false},
	rule{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false, whyClulow, false},
	rule{pkcs11.CKA_SIGN, "CKA_SIGN", false, whyUsage, true},
	rule{pkcs11.CKA_VERIFY, "CKA_VERIFY", false, whyUsage, true},
	rule{pkcs11.CKA_DERIVE, "CKA_DERIVE", false, whyUsage, true},
)

var recordRules = append(secret[:len(secret):len(secret)],
	rule{pkcs11.CKA_SIGN, "CKA_SIGN", true, "it authenticates key records", false},
	rule{pkcs11.CKA_ENCRYPT, "CKA_ENCRYPT", false, whyUsage, false},
	rule{pkcs11.CKA_DECRYPT, "CKA_DECRYPT", false, whyUsage, false},
	rule{pkcs11.CKA_WRAP, "CKA_WRAP", false, whyUsage, true},
	rule{pkcs11.CKA_UNWRAP, "CKA_UNWRAP", false, whyUsage, true},
	rule{pkcs11.CKA_DERIVE, "CKA_DERIVE", false, whyUsage, true},
)

// What a private key that is used for signatures must be. It may have been imported.
var privateRules = []rule{
	{pkcs11.CKA_PRIVATE, "CKA_PRIVATE", true, "it could be used without a login", false},
	{pkcs11.CKA_SENSITIVE, "CKA_SENSITIVE", true, whyLeaves, false},
	{pkcs11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, whyLeaves, false},
	{pkcs11.CKA_SIGN, "CKA_SIGN", true, "it is to sign", false},
}

// checkAttributes checks the attributes of a root key. The error is that of the token,
// not what the checks say.
func (s session) checkAttributes(label string, key pkcs11.ObjectHandle, kind uint, rules []rule) ([]Check, error) {
	var checks []Check
	for _, n := range []struct {
		attribute uint
		name      string
		want      uint
	}{{pkcs11.CKA_KEY_TYPE, "CKA_KEY_TYPE", kind}, {pkcs11.CKA_VALUE_LEN, "CKA_VALUE_LEN", kms.KeySize}} {
		got, err := s.number(key, n.attribute)
		if err != nil {
			return nil, err
		}
		checks = append(checks, verdict(label+": "+n.name, fmt.Sprint(got), got == n.want, fmt.Sprintf("it must be %d", n.want)))
	}
	for _, r := range rules {
		c, err := s.follows(label, key, r)
		if err != nil {
			return nil, err
		}
		checks = append(checks, c)
	}
	return checks, nil
}

func (s session) follows(label string, key pkcs11.ObjectHandle, r rule) (Check, error) {
	what, why := label+": "+r.name, fmt.Sprintf("it must be %v: %s", r.want, r.why)
	value, err := s.attribute(key, r.attribute)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID {
		return s.judge(r.name, verdict(what, "not known to the token", r.optional, why)), nil
	}
	if err != nil {
		return Check{}, err
	}
	is := len(value) == 1 && value[0] != 0
	return s.judge(r.name, verdict(what, fmt.Sprint(is), is == r.want && len(value) == 1, why)), nil
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
