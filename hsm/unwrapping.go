package hsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// What came of the tries to unwrap a key of a KEK so that it can be read, or that any
// key wraps it. Empty: they were not made, or not to the end.
const (
	unwrapsHidden    = "hidden"    // no try gave the key away
	unwrapsReadable  = "readable"  // one did
	unwrapsUnguarded = "unguarded" // one did, and the token does not know CKA_UNWRAP_TEMPLATE
	unwrapsNothing   = "nothing"   // none was made: the token wraps no key; see makeAnyProbe
)

// refuseReadable shows of all KEKs that refusesReadable is so. Its error is that of the
// first of which it is not.
func (s session) refuseReadable() (first error) {
	for _, k := range s.link.keks {
		if s.link.probe.handle.wrapping == inToken {
			k.unwraps = unwrapsNothing
			continue
		}
		err := s.refusesReadable(k)
		switch {
		case err == nil && k.unwraps == "":
			k.unwraps = unwrapsHidden
		case errors.Is(err, kms.ErrDenied):
			k.unwraps = unwrapsReadable
			if first == nil {
				first = err
			}
		case err != nil:
			return err
		}
	}
	return first
}

// unwrapTemplates says of each KEK whether it has the attribute that keeps stored keys
// from being unwrapped readable. That it holds, the probe has shown, whose verdict is
// that of Open: a KEK without the attribute is found wanting only if it did not. The
// error is that of the token.
func (s session) unwrapTemplates() ([]Check, error) {
	var checks []Check
	for _, k := range s.link.keks {
		c, err := s.checkTemplate(k)
		if err != nil {
			return checks, err
		}
		checks = append(checks, c)
	}
	return checks, nil
}

const whyUnwrapped = "whoever has the PIN could unwrap stored keys so that they can be read"

func (s session) checkTemplate(k *kek) (Check, error) {
	what := fmt.Sprintf("KEK %q: CKA_UNWRAP_TEMPLATE", k.label)
	safe := k.unwraps == unwrapsHidden || k.unwraps == unwrapsNothing
	wanting := func(found string) Check {
		return s.judge("CKA_UNWRAP_TEMPLATE", verdict(what, found, safe, whyUnwrapped+"; keygate hsm init makes a KEK that has one"))
	}
	value, err := s.attribute(k.object, pkcs11.CKA_UNWRAP_TEMPLATE)
	switch e, answers := errors.AsType[*Error](err); {
	case err == nil && len(value) == 0:
		return wanting("empty"), nil
	case err == nil:
		return Check{What: what, Found: "there", OK: true}, nil
	case answers && e.Code == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID && safe:
		return Check{What: what, Found: "not known to the token", OK: true}, nil
	case answers && e.Code == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID:
		return Check{What: what, Found: "not known to the token: " + whyUnwrapped, OK: true}, nil
	case answers && e.class() == requestFault:
		return wanting("not told: " + codeName(e.Code)), nil
	}
	return Check{}, err
}
