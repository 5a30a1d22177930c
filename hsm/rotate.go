package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// How a KEK is replaced. What the old one has wrapped is unwrapped by it as a key
// that is extractable and under trusted control (CKA_WRAP_WITH_TRUSTED), which only a
// key with CKA_TRUSTED wraps, and wrapped by the new KEK, the only one that has it. It
// never is what a key of somebody with the PIN could wrap, at no moment.
//
// CKA_TRUSTED can be given by the security officer only (PKCS#11 v2.40 4.9.2), who
// sees no private objects, and the KEK is one. So he makes it as a public session
// object, which no other process can see, and logs out; the user, who logs in on the
// same session, copies it to a private token object; the first is destroyed.

// MadeKEK describes a KEK that BeginRotation made.
type MadeKEK struct {
	Label string    `json:"label"`
	ID    string    `json:"id"` // CKA_ID, in hex
	Token TokenInfo `json:"token"`
}

// BeginRotation makes the KEK that cfg names, as kek or one of other_keks, and that the
// token does not have yet: one with CKA_TRUSTED, that may wrap what the present KEK has
// wrapped. officer says where the PIN of the token's security officer is. It shows
// that a key of each KEK that is there can be wrapped by the new one, if that KEK
// allows it at all, and that the new KEK is as a KEK has to be. No key is wrapped by it
// before a configuration names it as kek.
//
// No other part of this process may use the token meanwhile (PKCS#11 v2.40 5.6: one
// user is logged in at a time).
func BeginRotation(ctx context.Context, cfg Config, officer PIN) (MadeKEK, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return MadeKEK{}, err
	}
	if err := officer.check(); err != nil {
		return MadeKEK{}, err
	}
	if len(cfg.Tokens) > 0 {
		return MadeKEK{}, fmt.Errorf("hsm: tokens: begin with a configuration of one token, and copy its KEK to the others in the way of their maker before a gateway is told of it: %w", kms.ErrUnsupported)
	}
	t, err := cfg.alone(ctx, false)
	if err != nil {
		return MadeKEK{}, err
	}
	so := &pinSource{from: officer}
	defer so.forget()
	var made MadeKEK
	err = t.session(ctx, pkcs11.CKF_RW_SESSION, func(s session) (err error) {
		made, err = t.beginRotation(s, so)
		return err
	})
	return made, errors.Join(err, t.end())
}

func (t *token) beginRotation(s session, officer *pinSource) (made MadeKEK, err error) {
	made.Token = s.link.token
	// The user has logged in first: a wrong PIN must not be found half way.
	made.Label, err = s.missingKEK(t.cfg)
	if err != nil {
		return made, err
	}
	if err := s.noneLeaves(t.cfg); err != nil {
		return made, err
	}
	if err := t.makeTrustedKEK(s, made.Label, officer); err != nil {
		return made, err
	}
	if err := s.ready(t.cfg); err != nil {
		return made, fmt.Errorf("the KEK %q was made, and is refused: %w", made.Label, err)
	}
	for _, k := range s.link.keks {
		if k.label == made.Label {
			made.ID = fmt.Sprintf("%x", k.id)
			return made, s.canReplaceOthers(k)
		}
	}
	return made, errStale
}

// missingKEK returns the label of the one KEK of c that the token does not have.
func (s session) missingKEK(c Config) (missing string, err error) {
	for _, label := range append([]string{c.KEK}, c.OtherKEKs...) {
		there, err := s.isThere(label)
		switch {
		case err != nil:
			return "", err
		case there:
		case missing != "":
			return "", fmt.Errorf("hsm: the token has neither the KEK %q nor %q: keygate hsm init makes the first: %w", missing, label, kms.ErrDenied)
		default:
			missing = label
		}
	}
	if missing == "" {
		return "", fmt.Errorf("hsm: the token has every KEK of kek and other_keks: name a new one in other_keks: %w", kms.ErrDenied)
	}
	if missing == c.KEK && len(c.OtherKEKs) == 0 {
		return "", fmt.Errorf("hsm: the token has no KEK yet: keygate hsm init makes it: %w", kms.ErrDenied)
	}
	return missing, nil
}

// noneLeaves refuses root keys that a trusted KEK could wrap; see checkTrust.
func (s session) noneLeaves(c Config) error {
	for _, label := range append([]string{c.KEK, c.RecordKey}, c.OtherKEKs...) {
		key, err := s.findKey(label)
		if _, missing := errors.AsType[*notFoundError](err); missing {
			continue
		}
		if err != nil {
			return err
		}
		extractable, err := s.flag(key, pkcs11.CKA_EXTRACTABLE)
		if err != nil {
			return err
		}
		if extractable {
			return fmt.Errorf("hsm: %q can be copied, and a KEK that the security officer trusts could wrap it: copy the root keys to another token, where they cannot be any more, and begin there: %w", label, kms.ErrUnsupported)
		}
	}
	return nil
}

// makeTrustedKEK makes a KEK with CKA_TRUSTED. The user is logged in before and after.
func (t *token) makeTrustedKEK(s session, label string, officer *pinSource) error {
	first, err := s.asOfficer(officer, func() (pkcs11.ObjectHandle, error) {
		template := override(kekTemplate(label), nil, map[uint]bool{pkcs11.CKA_TOKEN: false, pkcs11.CKA_PRIVATE: false, pkcs11.CKA_MODIFIABLE: true})
		return s.generate(pkcs11.CKM_AES_KEY_GEN, label, append(template,
			pkcs11.NewAttribute(pkcs11.CKA_TRUSTED, true), pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, unwrapTemplate(rotatableForm))))
	})
	if err != nil {
		return fmt.Errorf("hsm: the security officer cannot make a KEK with CKA_TRUSTED: %w", err)
	}
	defer s.destroy(first)
	if err := t.login(s); err != nil {
		return err
	}
	// Another run may have been faster: of two KEKs with one label none can be used, and
	// neither can be destroyed.
	if there, err := s.isThere(label); err != nil {
		return err
	} else if there {
		return fmt.Errorf("hsm: the token has a KEK %q by now, which this has not made: %w", label, kms.ErrDenied)
	}
	return s.keepCopy(first, label)
}

// keepCopy copies a public session object to a private token object that nobody can
// change any more. It makes no second one, whatever the token says of the first.
func (s session) keepCopy(first pkcs11.ObjectHandle, label string) error {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_DESTROYABLE, false),
	}
	// SoftHSM lets a copy not be CKA_COPYABLE false; see excuseCopyable.
	for _, last := range [][]*pkcs11.Attribute{
		{pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false), pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false)},
		{pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false)},
	} {
		_, err := s.link.module.ctx.CopyObject(s.handle, first, append(template[:len(template):len(template)], last...))
		err = answered("C_CopyObject", err)
		if c, ok := classOf(err); !ok || c != requestFault || len(last) == 1 {
			return err
		}
		if there, findErr := s.isThere(label); there || findErr != nil {
			return errors.Join(err, findErr)
		}
	}
	return nil
}

// asOfficer runs fn with the security officer logged in, who is logged out after it.
// Private session objects of the user do not survive that. The PIN is not tried where
// one wrong one more locks it: some tokens erase all keys then.
func (s session) asOfficer(officer *pinSource, fn func() (pkcs11.ObjectHandle, error)) (pkcs11.ObjectHandle, error) {
	ctx := s.link.module.ctx
	info, err := ctx.GetTokenInfo(s.link.slot)
	if err != nil {
		return 0, answered("C_GetTokenInfo", err)
	}
	if err := officerPINAtRisk(info.Flags); err != nil {
		return 0, err
	}
	if err := ctx.Logout(s.handle); err != nil {
		return 0, answered("C_Logout", err)
	}
	err = officer.use(func(pin []byte, _ bool) error { return s.link.module.login(s.handle, true, pin) })
	if err != nil {
		return 0, err
	}
	object, err := fn()
	return object, errors.Join(err, answered("C_Logout", ctx.Logout(s.handle)))
}

// canReplaceOthers shows that a key of each other KEK that can be replaced can be
// wrapped by k.
func (s session) canReplaceOthers(k *kek) error {
	for _, other := range s.link.keks {
		if other == k || other.form == strictForm {
			continue
		}
		if _, err := s.rewrapTo(k, other, other.probe); err != nil {
			return fmt.Errorf("hsm: a key that the KEK %q wraps cannot be wrapped by %q: %w", other.label, k.label, err)
		}
	}
	return nil
}

// rewrap returns a handle of the same key that the present KEK wraps, or nothing if it
// does already, or no KEK does.
func (s session) rewrap(handle []byte) ([]byte, error) {
	h, err := parseHandle(handle)
	if err != nil {
		return nil, err
	}
	if h.wrapping == inToken {
		return nil, nil
	}
	old, err := s.link.kekOf(h)
	if err != nil {
		return nil, err
	}
	k := s.link.present()
	if old == k {
		return nil, nil
	}
	next, err := s.rewrapTo(k, old, h)
	if err != nil {
		return nil, err
	}
	return next.marshal(), nil
}

// rewrapTo wraps the key of h, which the KEK old wraps, by the KEK k. The new handle
// has been loaded and used once, and gave the same key: it keeps the check of the
// old one.
func (s session) rewrapTo(k, old *kek, h keyHandle) (keyHandle, error) {
	switch {
	case old.form == strictForm:
		return h, fmt.Errorf("hsm: what the KEK %q has wrapped cannot be wrapped again: it was made to allow that to nobody: %w", old.label, kms.ErrUnsupported)
	case !k.trusted:
		return h, fmt.Errorf("hsm: the KEK %q has no CKA_TRUSTED, so it cannot wrap what another has: keygate hsm rotate begin makes one that has: %w", k.label, kms.ErrUnsupported)
	}
	object, err := settle(s, kms.ErrCorrupt, s.canary, func() (pkcs11.ObjectHandle, error) { return s.tryLoadAs(h, true) })
	if err != nil {
		return h, err
	}
	next := h
	next.kek, next.wrapping = k.id, s.link.wrap.chosen
	next.wrapped, err = s.wrapKey(next, object)
	if destroyErr := s.destroy(object); err == nil {
		err = destroyErr
	}
	if err != nil {
		return h, err
	}
	if object, err = s.tryLoad(next); err != nil {
		return h, fmt.Errorf("hsm: the key that was wrapped again is not loaded: %w", err)
	}
	return next, s.destroy(object)
}

// tryHandle loads the wrapped key of a handle and uses it once.
func (s session) tryHandle(handle []byte) error {
	h, err := parseHandle(handle)
	if err != nil {
		return err
	}
	object, err := s.load(h)
	if err != nil {
		return err
	}
	return s.destroy(object)
}
