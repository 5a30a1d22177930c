package hsm

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

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

// rootKeyScheme is what a name of a root key begins with that is not just its label:
// pkcs11:object=LABEL;id=%01%02..., for one of two keys that have one label.
const rootKeyScheme = "pkcs11:"

// rootKeyName returns the attributes that a root key is found by.
func rootKeyName(name string) ([]*pkcs11.Attribute, error) {
	if !strings.HasPrefix(name, rootKeyScheme) {
		return []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, name)}, nil
	}
	u, err := parseURI(name, "object", "id")
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	label, id := u.path["object"], u.path["id"]
	if label == "" || id == "" || len(u.query) > 0 {
		return nil, fmt.Errorf("%q: it is a label, or %sobject=LABEL;id=%%01%%02", name, rootKeyScheme)
	}
	return []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(id))}, nil
}

// checkRootKeyLabel returns an error if a key cannot be made with that name.
func checkRootKeyLabel(name string) error {
	if strings.HasPrefix(name, rootKeyScheme) {
		return fmt.Errorf("hsm: %q names a key that is there, and it is not: a key is made with a label, and gets an id: %w", name, kms.ErrDenied)
	}
	return nil
}

// findKey returns the one secret key with a name; see rootKeyName.
func (s session) findKey(name string) (pkcs11.ObjectHandle, error) {
	attributes, err := rootKeyName(name)
	if err != nil {
		return 0, fmt.Errorf("hsm: %w: %w", err, kms.ErrDenied)
	}
	found, err := s.find(append(attributes,
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)), 4)
	if err != nil {
		return 0, err
	}
	switch len(found) {
	case 0:
		return 0, &notFoundError{text: fmt.Sprintf("the token has no secret key %q: keygate hsm init makes it", name)}
	case 1:
		return found[0], nil
	}
	return 0, s.severalKeys(name, attributes[0].Value, found)
}

// severalKeys says how each of the keys of one label can be named. Two runs of init at
// the same time make them, and then keys may be wrapped by one that cannot be told
// from the other by its label.
func (s session) severalKeys(name string, label []byte, found []pkcs11.ObjectHandle) error {
	var names []string
	for _, key := range found {
		id, err := s.attribute(key, pkcs11.CKA_ID)
		if err != nil {
			return err
		}
		var escaped strings.Builder
		for _, b := range id {
			fmt.Fprintf(&escaped, "%%%02x", b)
		}
		names = append(names, fmt.Sprintf("%sobject=%s;id=%s", rootKeyScheme, url.PathEscape(string(label)), escaped.String()))
	}
	return fmt.Errorf("hsm: the token has more than one secret key %q, which can be named %s: %w", name, strings.Join(names, " and "), kms.ErrDenied)
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
