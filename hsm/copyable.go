package hsm

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// Root keys that may be copied to another token, of any maker, are CKA_EXTRACTABLE and
// CKA_WRAP_WITH_TRUSTED: they leave their token only wrapped by a key with CKA_TRUSTED,
// which none but its security officer can give. Where they arrive they are neither made
// in the token nor always sensitive, whatever they were before. Both is accepted only if
// the configuration says so.

// copyableAllowed is the value of Config.Copyable that accepts such keys.
const copyableAllowed = "allowed"

// copiedRules are the rules that a key that may be copied, or was, breaks, and what
// that means.
var copiedRules = map[string]string{
	"CKA_EXTRACTABLE":       "copyable under the security officer's control",
	"CKA_NEVER_EXTRACTABLE": "it is, or was, copyable, or made elsewhere",
	"CKA_ALWAYS_SENSITIVE":  "made elsewhere",
	"CKA_LOCAL":             "made elsewhere",
	// SoftHSM says so of every key that was unwrapped. CopyRootKeys has compared the
	// key with one that has 32 bytes.
	"CKA_VALUE_LEN": "not told",
}

// allowCopied replaces the checks of a root key that it fails because it may be copied
// or was, if the configuration allows that, and the token shows that it can be wrapped
// by no key that somebody with the PIN can make.
func (s session) allowCopied(checks []Check, what string, key pkcs11.ObjectHandle) error {
	extractable, err := s.flag(key, pkcs11.CKA_EXTRACTABLE)
	if err != nil || !s.link.copyable {
		return err
	}
	if extractable {
		s.link.extractable = true
		if leaks, err := s.leaks(key); leaks || err != nil {
			return err
		}
	}
	for i, c := range checks {
		name := strings.TrimPrefix(c.What, what+": ")
		if name == "CKA_VALUE_LEN" && c.Found != "0" {
			continue
		}
		if meaning := copiedRules[name]; meaning != "" && !c.OK {
			checks[i] = Check{What: c.What, Found: fmt.Sprintf("%s, which root.pkcs11.copyable allows: %s", c.Found, meaning), OK: true}
		}
	}
	return nil
}

// checkTrust refuses root keys that can be copied beside any trusted key that the token
// keeps, such as the next KEK: that one would wrap them, and whoever has the PIN could
// unwrap the KEK again as a key that decrypts.
func (s session) checkTrust() ([]Check, error) {
	if !s.link.extractable {
		return nil, nil
	}
	trusted, err := s.trustedKeys(pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true))
	if err != nil || len(trusted) == 0 {
		return nil, err
	}
	return []Check{{What: "root keys", Found: "copyable, beside a trusted key that wraps", err: kms.ErrDenied,
		Why: "it could wrap the root keys, and what is unwrapped again could decrypt: copyable keys must be in a token without one"}}, nil
}

func (s session) trustedKeys(more ...*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	return s.find(append(more, pkcs11.NewAttribute(pkcs11.CKA_TRUSTED, true), pkcs11.NewAttribute(pkcs11.CKA_WRAP, true)), 64)
}

// countTrustedOthers counts the keys that the security officer lets wrap what is under
// trusted control, beside KEKs: whoever can unwrap what they wrap has all keys.
func (s session) countTrustedOthers() (int, error) {
	found, err := s.trustedKeys()
	if err != nil {
		return 0, err
	}
	others := len(found)
	for _, object := range found {
		for _, k := range s.link.keks {
			if k.object == object {
				others--
			}
		}
	}
	return others, nil
}

func (s session) trustedOthers() (string, error) {
	others, err := s.countTrustedOthers()
	if err != nil {
		return "", err
	}
	if others > 0 {
		return fmt.Sprintf("%d, which are no KEKs: WHO CAN UNWRAP WHAT THEY WRAP CAN READ ALL KEYS", others), nil
	}
	return "none but KEKs", nil
}
