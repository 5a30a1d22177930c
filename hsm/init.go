package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// Made says which root keys Init made and which it found.
type Made struct {
	KEK       bool      `json:"kek"`
	RecordKey bool      `json:"record_key"`
	Token     TokenInfo `json:"token"`
}

// Init makes the KEK and the record key in the token that cfg names, unless they
// are there, and then checks and uses them as Open does, so that a token for
// which it returned nil can be opened. It logs in once.
func Init(ctx context.Context, cfg Config) (Made, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Made{}, err
	}
	if cfg, err = cfg.only(); err != nil {
		return Made{}, err
	}
	m, err := useModule(cfg.Module, cfg.InitArgs)
	if err != nil {
		return Made{}, err
	}
	t := &token{cfg: cfg, module: m, pin: &pinSource{from: cfg.PIN}}
	defer t.pin.forget()
	made, err := t.makeRootKeys(ctx)
	return made, errors.Join(err, m.release(cfg.Timeout))
}

// makeRootKeys does the work of Init in one session, which must be able to
// write.
func (t *token) makeRootKeys(ctx context.Context) (made Made, err error) {
	l, err := t.newBareLink(ctx, t.module.generation(), pkcs11.CKF_RW_SESSION)
	if err != nil {
		return made, err
	}
	defer l.anchor.close()
	if err := l.enter(ctx); err != nil {
		return made, err
	}
	defer l.leave()
	made.Token = l.token
	s := l.anchor
	kek, record, err := s.rootKeysThere(t.cfg)
	if err != nil {
		return made, err
	}
	if !kek {
		if err := s.makeKEK(t.cfg.KEK); err != nil {
			return made, err
		}
		made.KEK = true
	}
	// A token with a KEK that is refused gets no record key either.
	checks, err := s.examineKEK(t.cfg)
	if err == nil {
		err = refused(checks)
	}
	if err != nil {
		return made, err
	}
	if !record {
		if err := s.makeRecordKey(t.cfg.RecordKey); err != nil {
			return made, err
		}
		made.RecordKey = true
	}
	return made, s.ready(t.cfg)
}

// rootKeysThere reports which root keys the token has, of those that c names.
func (s session) rootKeysThere(c Config) (kek, record bool, err error) {
	if kek, err = s.isThere(c.KEK); err != nil {
		return kek, record, err
	}
	if record, err = s.isThere(c.RecordKey); err != nil {
		return kek, record, err
	}
	if record && !kek {
		// The KEK is made first, so this is no half of an Init.
		err = fmt.Errorf("hsm: the token has the record key %q but no KEK %q: the KEK was lost or has another label, and what it wraps cannot be used without it: %w", c.RecordKey, c.KEK, kms.ErrDenied)
	}
	return kek, record, err
}

// isThere reports whether the token has a key; two of them are an error.
func (s session) isThere(label string) (bool, error) {
	_, err := s.findKey(label)
	if _, missing := errors.AsType[*notFoundError](err); missing {
		return false, nil
	}
	return err == nil, err
}

func (s session) makeKEK(label string) error {
	return s.generate(pkcs11.CKM_AES_KEY_GEN, label, append(rootTemplate(label, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, false)),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, unwrapTemplate()))
}

func (s session) makeRecordKey(label string) error {
	return s.generate(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, label, append(rootTemplate(label, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false)))
}

// generate makes a key with a template and the attributes that not every token
// knows: of these, as many of the first as it does. Some say that they do not know
// one with a code that means any fault; another try is made only if the token is
// seen to have no key of that label, so that none is made twice.
func (s session) generate(mechanism uint, label string, template []*pkcs11.Attribute, optional ...*pkcs11.Attribute) error {
	optional = append(optional, pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false), pkcs11.NewAttribute(pkcs11.CKA_DESTROYABLE, false))
	if s.link.plan != nil && isTokenObject(template) {
		s.link.plan.add(mechanism, label, template, optional)
		return nil
	}
	var first error
	for n := len(optional); n >= 0; n-- {
		full := append(template[:len(template):len(template)], optional[:n]...)
		_, err := s.link.module.ctx.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, full)
		if err == nil {
			return nil
		}
		if first == nil {
			first = answered("C_GenerateKey", err)
		}
		if err != pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
			c, _ := classOf(answered("C_GenerateKey", err))
			there, findErr := s.isThere(label)
			if !c.unsure() || there || findErr != nil {
				return errors.Join(answered("C_GenerateKey", err), findErr)
			}
		}
	}
	return first
}

// rootTemplate is what the KEK and the record key have in common. Neither can
// be changed or, where the token supports that, copied or destroyed.
func rootTemplate(label string, kind uint) []*pkcs11.Attribute {
	id := make([]byte, len(kekID{}))
	rand.Read(id)
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, kms.KeySize),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, false),
	}
}
