package hsm

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// States of a session in which the user is logged in. PKCS#11 v2.40 3.3.
const (
	stateROUser = 1
	stateRWUser = 3
)

// login logs in unless this process is.
func (r *Root) login(s session) error {
	info, err := s.link.module.ctx.GetSessionInfo(s.handle)
	if err != nil {
		return answered("C_GetSessionInfo", err)
	}
	if info.State == stateROUser || info.State == stateRWUser {
		return nil
	}
	return r.pin.use(func(pin []byte) error {
		r.stats.logins.Add(1)
		err := s.link.module.login(s.handle, pin)
		if e, ok := errors.AsType[*Error](err); ok && e.Code == pkcs11.CKR_USER_ALREADY_LOGGED_IN {
			return nil // another root of this process was first
		}
		return err
	})
}

// findRootKeys finds the KEK and the record key and refuses bad ones.
func (s session) findRootKeys(c Config) error {
	l := s.link
	var err error
	if l.kek, err = s.findKey(c.KEK); err != nil {
		return err
	}
	record, err := s.findKey(c.RecordKey)
	if err != nil {
		return err
	}
	l.recordKey = &loaded{link: l, object: record}
	checks, err := s.attestRootKeys(c)
	if err != nil {
		return err
	}
	if err := refusals(checks); err != nil {
		return err
	}
	id, err := s.attribute(l.kek, pkcs11.CKA_ID)
	if err != nil {
		return err
	}
	copy(l.kekID[:], id)
	return nil
}

// attestRootKeys checks the KEK and the record key.
func (s session) attestRootKeys(c Config) ([]Check, error) {
	kek, err := s.attest(c.KEK, s.link.kek, pkcs11.CKK_AES, kekRules)
	if err != nil {
		return nil, err
	}
	id, err := s.attribute(s.link.kek, pkcs11.CKA_ID)
	if err != nil {
		return nil, err
	}
	size := Check{What: c.KEK + ": CKA_ID", Found: fmt.Sprintf("%x", id), OK: len(id) == len(kekID{})}
	if !size.OK {
		size.Why = fmt.Sprintf("it is not %d bytes", len(kekID{}))
	}
	record, err := s.attest(c.RecordKey, s.link.recordKey.object, pkcs11.CKK_GENERIC_SECRET, recordRules)
	if err != nil {
		return nil, err
	}
	return append(append(kek, size), record...), nil
}

// probe makes the link's own key, in the way that master keys are made, and
// uses it. It refuses a module that does not encrypt as it should.
func (s session) probe() error {
	var id kms.KeyID
	rand.Read(id[:])
	h, err := s.newKey(id, kms.Encryption, nil)
	if err != nil {
		return err
	}
	object, err := s.tryLoad(h)
	if err != nil {
		return err
	}
	s.link.probe = &loaded{link: s.link, object: object, handle: h}
	if err := s.roundTrip(object); err != nil {
		return err
	}
	if _, err := s.mac(s.link.recordKey.object, []byte(checkConstant)); err != nil {
		return err
	}
	if err := s.refusesBadTag(object); err != nil {
		return err
	}
	if err := s.refusesExtractable(h); err != nil {
		return err
	}
	return s.canary() // the refusals have left the session usable
}

var errWrong = fmt.Errorf("hsm: the token does not compute what it should: %w", kms.ErrUnavailable)

// roundTrip encrypts the same twice, and opens it.
func (s session) roundTrip(key pkcs11.ObjectHandle) error {
	plaintext, additionalData := []byte("keygate probe"), []byte("additional data")
	one, err := s.seal(key, nil, plaintext, additionalData)
	if err != nil {
		return err
	}
	two, err := s.seal(key, nil, plaintext, additionalData)
	if err != nil {
		return err
	}
	if bytes.Equal(one[ivSize:], two[ivSize:]) || bytes.Contains(one, plaintext) {
		return fmt.Errorf("%w: two encryptions with different IVs are the same", errWrong)
	}
	got, err := s.unseal(key, one, additionalData)
	if err == nil && !bytes.Equal(got, plaintext) {
		err = fmt.Errorf("%w: a ciphertext decrypts to something else", errWrong)
	}
	return err
}

// refusesBadTag shows that the tag is checked, and that what the token answers
// to a bad one is known to be the answer to bad input.
func (s session) refusesBadTag(key pkcs11.ObjectHandle) error {
	bad, err := s.seal(key, nil, []byte("keygate probe"), nil)
	if err != nil {
		return err
	}
	bad[len(bad)-1] ^= 1
	_, err = s.unseal(key, bad, nil)
	if err == nil {
		return fmt.Errorf("%w: it takes a ciphertext with a bad tag", errWrong)
	}
	if c, ok := classOf(err); !ok || c != inputFault {
		return fmt.Errorf("hsm: the answer to a bad tag cannot be told from a fault: %w", err)
	}
	return nil
}

// refusesExtractable shows that whoever has the PIN cannot unwrap a stored key
// as one that can be read: CKA_UNWRAP_TEMPLATE of the KEK forbids it.
func (s session) refusesExtractable(h keyHandle) error {
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}
	object, err := s.link.module.ctx.UnwrapKey(s.handle, m, s.link.kek, h.wrapped, keyTemplate(h.purpose, true))
	if err != nil {
		return nil // that is what it should say
	}
	if err := s.destroy(object); err != nil {
		return err
	}
	if _, err := s.attribute(s.link.kek, pkcs11.CKA_UNWRAP_TEMPLATE); err != nil {
		if e, ok := errors.AsType[*Error](err); ok && e.Code == pkcs11.CKR_ATTRIBUTE_TYPE_INVALID {
			return nil // the token knows no such attribute
		}
	}
	return fmt.Errorf("hsm: the KEK has no CKA_UNWRAP_TEMPLATE with CKA_SENSITIVE true and CKA_EXTRACTABLE false: whoever has the PIN could unwrap the stored keys as keys that can be read: %w", kms.ErrDenied)
}
