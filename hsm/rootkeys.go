package hsm

import (
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// examine looks at all that a root needs of its token but does not use it, and
// finds the root keys. The error is that of the token, not what the checks say.
func (s session) examine(c Config) ([]Check, error) {
	checks, err := s.checkMechanisms(c)
	if err != nil {
		return checks, err
	}
	kek, err := s.examineKEKs(c)
	if err != nil {
		return checks, err
	}
	record, err := s.examineKey("record key", c.RecordKey, pkcs11.CKK_GENERIC_SECRET, recordRules, func(key pkcs11.ObjectHandle) ([]Check, error) {
		s.link.recordKey = &loaded{link: s.link, object: key}
		return nil, nil
	})
	if err != nil {
		return append(append(checks, kek...), record...), err
	}
	trust, err := s.checkTrust()
	return append(append(append(checks, kek...), record...), trust...), err
}

// examineKEK examines the present KEK only.
func (s session) examineKEK(c Config) ([]Check, error) {
	s.link.keks = nil
	return s.examineOneKEK(c.KEK, true)
}

// examineKEKs examines all KEKs.
func (s session) examineKEKs(c Config) ([]Check, error) {
	all, err := s.examineKEK(c)
	for _, label := range c.OtherKEKs {
		if err != nil {
			break
		}
		var checks []Check
		checks, err = s.examineOneKEK(label, false)
		all = append(all, checks...)
	}
	return all, err
}

func (s session) examineOneKEK(label string, present bool) ([]Check, error) {
	var key pkcs11.ObjectHandle
	checks, err := s.examineKey("KEK", label, pkcs11.CKK_AES, kekRules, func(found pkcs11.ObjectHandle) ([]Check, error) {
		key = found
		return s.addKEK(label, found, present)
	})
	if err == nil && key != 0 {
		err = s.excuseCopyable(checks, fmt.Sprintf("KEK %q", label), key)
	}
	return checks, err
}

// examineKey finds a root key and checks its attributes.
func (s session) examineKey(what, label string, kind uint, rules []rule, found func(pkcs11.ObjectHandle) ([]Check, error)) ([]Check, error) {
	what = fmt.Sprintf("%s %q", what, label)
	key, err := s.findKey(label)
	if _, device := classOf(err); device {
		return nil, err
	}
	if err != nil {
		return []Check{{What: what, Found: "not usable", Why: err.Error(), err: err}}, nil
	}
	checks, err := s.checkAttributes(what, key, kind, rules)
	if err != nil {
		return nil, err
	}
	if err := s.allowCopied(checks, what, key); err != nil {
		return nil, err
	}
	more, err := found(key)
	return append(checks, more...), err
}

// findKey returns the one secret key with a label.
func (s session) findKey(label string) (pkcs11.ObjectHandle, error) {
	found, err := s.find([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}, 2)
	if err != nil {
		return 0, err
	}
	switch len(found) {
	case 0:
		return 0, &notFoundError{text: fmt.Sprintf("the token has no secret key %q: keygate hsm init makes it", label)}
	case 1:
		return found[0], nil
	}
	return 0, fmt.Errorf("hsm: the token has more than one secret key %q: %w", label, kms.ErrDenied)
}

func (s session) find(template []*pkcs11.Attribute, limit int) ([]pkcs11.ObjectHandle, error) {
	ctx := s.link.module.ctx
	if err := ctx.FindObjectsInit(s.handle, template); err != nil {
		return nil, answered("C_FindObjectsInit", err)
	}
	found, _, err := ctx.FindObjects(s.handle, limit)
	final := ctx.FindObjectsFinal(s.handle)
	return found, errors.Join(answered("C_FindObjects", err), answered("C_FindObjectsFinal", final))
}
