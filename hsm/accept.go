package hsm

import (
	"errors"
	"slices"

	"github.com/keygate/keygate/kms"
)

// acceptable are the rules that Config.Accept may name. Each is one that a whole
// implementation of PKCS#11 may be unable to keep, for which there is no other way;
// that a key is not extractable or does not decrypt is in the operator's hands
// everywhere, and so not among them.
var acceptable = []string{"CKA_LOCAL", "CKA_UNWRAP_TEMPLATE"}

// judge returns the check of a rule, which is OK though the rule is broken if the
// operator accepts that. Then it still says what is wrong.
func (s session) judge(rule string, c Check) Check {
	if c.OK || !errors.Is(c.err, kms.ErrDenied) || !slices.Contains(s.link.accept, rule) {
		return c
	}
	s.link.broke = append(s.link.broke, c.What+" is "+c.Found+": "+c.Why)
	c.OK, c.err = true, nil
	c.Found += ", accepted by root.pkcs11.accept"
	return c
}
