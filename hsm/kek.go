package hsm

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// A kek is a key of the token that wraps master keys: the present one, which wraps
// new keys, or another.
type kek struct {
	label   string
	object  pkcs11.ObjectHandle
	id      kekID
	form    kekForm
	trusted bool      // CKA_TRUSTED: the security officer lets it wrap what is under trusted control
	probe   keyHandle // a key made for the link, that nothing uses
	unwraps string    // what refuseReadable found; see unwrapping.go
}

// A kekForm is what the CKA_UNWRAP_TEMPLATE of a KEK asks of the keys that it
// unwraps.
type kekForm uint8

const (
	// strictForm is SENSITIVE true, EXTRACTABLE false: nothing that the KEK has
	// wrapped is ever wrapped again, so the KEK cannot be replaced.
	strictForm kekForm = iota
	// rotatableForm is SENSITIVE true, WRAP_WITH_TRUSTED true, and DERIVE, COPYABLE
	// and MODIFIABLE false: what the KEK has wrapped can be wrapped again, but only
	// by a key with CKA_TRUSTED, which none but the security officer can give
	// (PKCS#11 v2.40 4.9.2). DERIVE is in it since mechanisms derive keys that are
	// not under trusted control any longer (CKM_XOR_BASE_AND_DATA), and the last two
	// so that it stays so.
	rotatableForm
)

// attributes returns what is in an unwrap template of this form beside the
// attributes that every one of them has. SoftHSM refuses what comes after
// CKA_MODIFIABLE, so that is the last.
func (f kekForm) attributes() []*pkcs11.Attribute {
	if f == strictForm {
		return nil
	}
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_WRAP_WITH_TRUSTED, true),
		pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
	}
}

// addKEK makes a key known to the link as a KEK, by the id that handles name it by.
func (s session) addKEK(label string, key pkcs11.ObjectHandle, present bool) ([]Check, error) {
	id, err := s.attribute(key, pkcs11.CKA_ID)
	if err != nil {
		return nil, err
	}
	k := &kek{label: label, object: key}
	copy(k.id[:], id)
	k.trusted, err = s.flag(key, pkcs11.CKA_TRUSTED)
	what, l := fmt.Sprintf("KEK %q: CKA_ID", label), s.link
	check := verdict(what, fmt.Sprintf("%x", id), len(id) == len(kekID{}), fmt.Sprintf("it must be %d bytes", len(kekID{})))
	for _, other := range l.keks {
		if other.id == k.id {
			check = verdict(what, fmt.Sprintf("%x", id), false, fmt.Sprintf("it is that of the KEK %q, too", other.label))
		}
	}
	l.keks = append(l.keks, k)
	if present {
		l.kek, l.kekID = k.object, k.id
	}
	return []Check{check}, err
}

// flag returns an attribute that is a CK_BBOOL; false also if the token does not know
// it.
func (s session) flag(key pkcs11.ObjectHandle, attribute uint) (bool, error) {
	value, err := s.attribute(key, attribute)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID {
		return false, nil
	}
	return len(value) == 1 && value[0] != 0, err
}

// present returns the KEK of new keys.
func (l *link) present() *kek {
	i := slices.IndexFunc(l.keks, func(k *kek) bool { return k.id == l.kekID })
	return l.keks[i]
}

// kekOf returns the KEK that wrapped the key of h.
func (l *link) kekOf(h keyHandle) (*kek, error) {
	for _, k := range l.keks {
		if k.id == h.kek {
			return k, nil
		}
	}
	var known []string
	for _, k := range l.keks {
		known = append(known, fmt.Sprintf("%q is %x", k.label, k.id))
	}
	return nil, fmt.Errorf("hsm: key handle: wrapped by the KEK %x, which is neither kek nor one of other_keks (%s): %w", h.kek, strings.Join(known, ", "), kms.ErrCorrupt)
}

// makeProbes makes a key under each KEK in the way that master keys are made, and
// finds out which form the KEK has.
func (s session) makeProbes() error {
	for _, k := range s.link.keks {
		if err := s.makeProbeUnder(k); err != nil {
			return fmt.Errorf("KEK %q: %w", k.label, err)
		}
	}
	object, err := s.tryLoad(s.link.present().probe)
	if err != nil {
		return err
	}
	s.link.probe = &loaded{link: s.link, object: object, handle: s.link.present().probe}
	return nil
}

func (s session) makeProbeUnder(k *kek) (err error) {
	k.form = strictForm
	k.probe, err = s.newProbe(k)
	if c, ok := classOf(err); ok && c == requestFault {
		k.form = rotatableForm // which a KEK of this form insists on
		k.probe, err = s.newProbe(k)
	}
	return err
}

// newProbe makes a key under k that nothing else uses.
func (s session) newProbe(k *kek) (keyHandle, error) {
	var id kms.KeyID
	rand.Read(id[:])
	return s.newKeyUnder(k, id, kms.Encryption, nil)
}

// An attack is how somebody with the PIN may unwrap a stored key.
type attack struct {
	name  string
	form  kekForm
	flags map[uint]bool
}

var attacks = []attack{
	{"readable", strictForm, map[uint]bool{pkcs11.CKA_SENSITIVE: false, pkcs11.CKA_EXTRACTABLE: false}},
	{"readable, and for a trusted key to wrap", rotatableForm, map[uint]bool{pkcs11.CKA_SENSITIVE: false, pkcs11.CKA_EXTRACTABLE: true}},
	{"extractable", strictForm, map[uint]bool{pkcs11.CKA_EXTRACTABLE: true}},
	{"extractable, for any key to wrap", rotatableForm, map[uint]bool{pkcs11.CKA_EXTRACTABLE: true, pkcs11.CKA_WRAP_WITH_TRUSTED: false}},
	{"extractable, for a trusted key to wrap", rotatableForm, map[uint]bool{pkcs11.CKA_EXTRACTABLE: true}},
}

// escapes are ways out of trusted control, for what a KEK of rotatableForm unwraps: the
// attributes that must not be true where a trusted key may wrap the key.
var escapes = []struct {
	name      string
	attribute uint
}{
	{"for other keys to be derived from", pkcs11.CKA_DERIVE},
	{"to be copied", pkcs11.CKA_COPYABLE},
	{"to be changed", pkcs11.CKA_MODIFIABLE},
}

// refusesReadable shows that whoever has the PIN cannot unwrap what k has wrapped as a
// key that can be read, or that he could wrap with a key of his own and then read:
// CKA_UNWRAP_TEMPLATE forbids it. It is shown by trying.
func (s session) refusesReadable(k *kek) error {
	for _, a := range attacks {
		if err := s.refuses(k, a); err != nil {
			return fmt.Errorf("KEK %q: %w", k.label, err)
		}
	}
	if k.form == strictForm {
		return nil // what is not extractable stays so, also what is derived from it (PKCS#11 v2.40 mechanisms 2.31)
	}
	for _, e := range escapes {
		a := attack{e.name, rotatableForm, map[uint]bool{pkcs11.CKA_EXTRACTABLE: true, e.attribute: true}}
		if err := s.refusesTo(k, a, func(object pkcs11.ObjectHandle) (bool, error) { return s.flag(object, e.attribute) }); err != nil {
			return fmt.Errorf("KEK %q: %w", k.label, err)
		}
	}
	return nil
}

// refuses returns nil if the attack does not give the key away.
func (s session) refuses(k *kek, a attack) error { return s.refusesTo(k, a, s.leaks) }

// refusesTo returns nil if the token does not unwrap as in the attack, or what it then has
// does not leak.
func (s session) refusesTo(k *kek, a attack, leaks func(pkcs11.ObjectHandle) (bool, error)) error {
	object, err := s.unwrapKey(k.probe, override(keyTemplate(k.probe.purpose, false), a.form.attributes(), a.flags))
	if c, ok := classOf(err); ok && c == requestFault {
		return nil // that is what it should say
	}
	if err != nil {
		return err
	}
	leaky, err := leaks(object)
	if destroyErr := s.destroy(object); err == nil {
		err = destroyErr
	}
	if err != nil || !leaky {
		return err
	}
	if _, err := s.attribute(k.object, pkcs11.CKA_UNWRAP_TEMPLATE); err != nil {
		if e, ok := errors.AsType[*Error](err); ok && e.Code == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID {
			k.unwraps = unwrapsUnguarded
			return nil
		}
	}
	return fmt.Errorf("hsm: the KEK has no CKA_UNWRAP_TEMPLATE that the token keeps to, with CKA_SENSITIVE true and CKA_EXTRACTABLE false or CKA_WRAP_WITH_TRUSTED true: whoever has the PIN could unwrap the stored keys as keys that can be read (%s): %w", a.name, kms.ErrDenied)
}

// leaks reports whether a key can be read, or wrapped by a key that anybody with the
// PIN can make.
func (s session) leaks(object pkcs11.ObjectHandle) (bool, error) {
	sensitive, err := s.flag(object, pkcs11.CKA_SENSITIVE)
	if err != nil || !sensitive {
		return true, err
	}
	own, err := s.ownKey()
	if err != nil {
		return true, err
	}
	defer s.destroy(own)
	if wraps, err := s.wrapsByOwn(own, object); err != nil || wraps {
		return true, err
	}
	// That it does not wrap this one tells something if it wraps another.
	other, err := s.ownKey()
	if err != nil {
		return true, err
	}
	defer s.destroy(other)
	if wraps, err := s.wrapsByOwn(own, other); err != nil || wraps {
		return false, err
	}
	trusted, err := s.flag(object, pkcs11.CKA_WRAP_WITH_TRUSTED)
	if err != nil || trusted {
		return false, err
	}
	return s.flag(object, pkcs11.CKA_EXTRACTABLE)
}

// wrapsByOwn reports whether a key that anybody with the PIN can make wraps another.
func (s session) wrapsByOwn(own, object pkcs11.ObjectHandle) (bool, error) {
	m, err := s.mechanismOf(s.link.wrap.chosen)
	if err != nil {
		return true, err
	}
	var iv []byte
	if s.link.wrap.chosen == wrapGCM {
		iv = make([]byte, ivSize)
	}
	size, _ := s.link.wrap.chosen.size()
	out := make([]byte, 2*size) // room for what is none of ours
	_, err = s.link.module.wrapKey(s.handle, m.id, own, object, iv, nil, out)
	clear(out)
	if c, ok := classOf(err); ok && c == requestFault {
		return false, nil
	}
	return true, err
}

// ownKey makes an AES key that wraps and decrypts, as an attacker with the PIN would.
func (s session) ownKey() (pkcs11.ObjectHandle, error) {
	object, err := s.link.module.ctx.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, kms.KeySize),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	})
	return object, answered("C_GenerateKey", err)
}

// override returns a template with more attributes and other flags.
func override(template, more []*pkcs11.Attribute, flags map[uint]bool) []*pkcs11.Attribute {
	all := slices.Concat(template, more)
	for i, a := range all {
		if value, ok := flags[a.Type]; ok {
			all[i] = pkcs11.NewAttribute(a.Type, value)
		}
	}
	return all
}

// excuseCopyable replaces the check of CKA_COPYABLE of a KEK that is true, if the
// token shows that a copy can be nothing that the KEK is not. A KEK that the security
// officer trusts is a copy itself (see makeTrustedKEK), and SoftHSM lets none of these be
// made without CKA_COPYABLE.
func (s session) excuseCopyable(checks []Check, what string, key pkcs11.ObjectHandle) error {
	trusted, err := s.flag(key, pkcs11.CKA_TRUSTED)
	if err != nil || !trusted {
		return err
	}
	for i, c := range checks {
		if c.What != what+": CKA_COPYABLE" || c.OK {
			continue
		}
		refused, err := s.refusesChangedCopies(key)
		if err != nil {
			return err
		}
		if refused {
			checks[i] = Check{What: c.What, Found: c.Found + ", but no copy differs from it", OK: true}
		}
	}
	return nil
}

// refusesChangedCopies reports whether the token refuses to copy a KEK into one with
// another use, or with which keys could be unwrapped readable.
func (s session) refusesChangedCopies(key pkcs11.ObjectHandle) (bool, error) {
	for _, change := range []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, []byte{}),
	} {
		object, err := s.link.module.ctx.CopyObject(s.handle, key, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), change})
		if err == nil {
			return false, s.destroy(object)
		}
		if c, ok := classOf(answered("C_CopyObject", err)); !ok || c != requestFault {
			return false, answered("C_CopyObject", err)
		}
	}
	return true, nil
}
