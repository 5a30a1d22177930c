package hsm

import (
	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// newKey makes a key, or imports one, as a session object, and returns the
// handle whose key has been loaded and used once. The key can be extracted,
// by wrapping only, until its one copy has been wrapped.
func (s session) newKey(id kms.KeyID, purpose kms.Purpose, imported []byte) (keyHandle, error) {
	return s.newKeyUnder(s.link.present(), id, purpose, imported)
}

func (s session) newKeyUnder(k *kek, id kms.KeyID, purpose kms.Purpose, imported []byte) (keyHandle, error) {
	h := keyHandle{wrapping: s.link.wrap.chosen, purpose: purpose, id: id, kek: k.id}
	object, err := s.create(purpose, imported)
	if err != nil {
		return h, err
	}
	err = s.describe(object, &h)
	if destroyErr := s.destroy(object); err == nil {
		err = destroyErr
	}
	if err != nil {
		return h, err
	}
	object, err = s.unwrap(h)
	if err != nil {
		return h, err
	}
	err = s.verify(object, h)
	if destroyErr := s.destroy(object); err == nil {
		err = destroyErr
	}
	return h, err
}

func (s session) create(purpose kms.Purpose, imported []byte) (object pkcs11.ObjectHandle, err error) {
	if object, err = s.createObject(purpose, imported); err != nil {
		return object, err
	}
	return object, s.link.isNew(object)
}

func (s session) createObject(purpose kms.Purpose, imported []byte) (pkcs11.ObjectHandle, error) {
	if imported != nil {
		return s.link.module.importKey(s.handle, purpose == kms.Encryption, imported, nil)
	}
	mechanism, template := uint(pkcs11.CKM_AES_KEY_GEN), keyTemplate(purpose, true)
	if purpose == kms.Authentication {
		mechanism = pkcs11.CKM_GENERIC_SECRET_KEY_GEN
	}
	template = append(template, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, kms.KeySize))
	object, err := s.link.module.ctx.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, template)
	return object, answered("C_GenerateKey", err)
}

// describe fills in what the key that object is looks like outside the token.
func (s session) describe(object pkcs11.ObjectHandle, h *keyHandle) (err error) {
	if h.wrapped, err = s.wrapKey(*h, object); err != nil {
		return err
	}
	h.check, err = s.checkOf(object, *h)
	return err
}

// unwrap loads the key of h as a session object, whether or not it is the right
// one.
func (s session) unwrap(h keyHandle) (pkcs11.ObjectHandle, error) { return s.unwrapAs(h, false) }

func (s session) unwrapAs(h keyHandle, extractable bool) (pkcs11.ObjectHandle, error) {
	k, err := s.link.kekOf(h)
	if err != nil {
		return 0, err
	}
	object, err := s.unwrapKey(h, override(keyTemplate(h.purpose, extractable), k.form.attributes(), nil))
	if err != nil {
		return object, err
	}
	return object, s.link.isNew(object)
}

// load returns an object that is the key of h and has been used once.
func (s session) load(h keyHandle) (pkcs11.ObjectHandle, error) {
	if h.wrapping == inToken {
		return s.loadResident(h)
	}
	if _, err := s.link.kekOf(h); err != nil {
		return 0, err
	}
	// Before settle: what goes wrong here says nothing of the wrapped key.
	if _, err := s.mechanismOf(h.wrapping); err != nil {
		return 0, err
	}
	return settle(s, kms.ErrCorrupt, s.canary, func() (pkcs11.ObjectHandle, error) { return s.tryLoad(h) })
}

func (s session) tryLoad(h keyHandle) (pkcs11.ObjectHandle, error) { return s.tryLoadAs(h, false) }

func (s session) tryLoadAs(h keyHandle, extractable bool) (pkcs11.ObjectHandle, error) {
	object, err := s.unwrapAs(h, extractable)
	if err != nil {
		return 0, err
	}
	if err := s.verify(object, h); err != nil {
		_ = s.destroy(object) // the session is closed if it cannot be
		return 0, err
	}
	return object, nil
}

// canary loads and uses the key that was made for the link. It fails only if
// the token does.
func (s session) canary() error {
	if s.link.probe == nil {
		return errStale
	}
	if s.link.probe.handle.wrapping == inToken {
		return s.verify(s.link.probe.object, s.link.probe.handle)
	}
	object, err := s.tryLoad(s.link.probe.handle)
	if err != nil {
		return err
	}
	return s.destroy(object)
}

// keyTemplate is the template of a master key: a session object for one
// purpose, extractable or not.
func keyTemplate(purpose kms.Purpose, extractable bool) []*pkcs11.Attribute {
	encryption, kind := purpose == kms.Encryption, uint(pkcs11.CKK_AES)
	if !encryption {
		kind = pkcs11.CKK_GENERIC_SECRET
	}
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, extractable),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, encryption),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, encryption),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, !encryption),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}
}
