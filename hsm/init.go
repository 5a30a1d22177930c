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
	// Rotatable says that what the KEK wraps can be wrapped anew by another KEK of this
	// token.
	Rotatable bool `json:"rotatable"`
	// Copyable says that a root key can be copied to another token by CopyRootKeys.
	Copyable bool `json:"copyable"`
}

// InitOptions say which root keys Init makes.
type InitOptions struct {
	// Strict makes a KEK that can never be replaced: what it has wrapped cannot be
	// wrapped again, not even if the security officer wants it.
	Strict bool
	// Copyable makes root keys that CopyRootKeys can copy to another token. The
	// configuration has to allow them.
	Copyable bool
}

// Init makes the KEK and the record key in the token that cfg names, unless they
// are there, and then checks and uses them as Open does, so that a token for
// which it returned nil can be opened. It logs in once.
func Init(ctx context.Context, cfg Config) (Made, error) { return InitWith(ctx, cfg, InitOptions{}) }

// InitWith is Init with options.
func InitWith(ctx context.Context, cfg Config, o InitOptions) (Made, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Made{}, err
	}
	if cfg, err = cfg.only(); err != nil {
		return Made{}, err
	}
	if o.Copyable && cfg.Copyable != copyableAllowed {
		return Made{}, fmt.Errorf("hsm: copyable: keys that can be copied are to be made, and the configuration does not have copyable: %s: %w", copyableAllowed, kms.ErrDenied)
	}
	t, err := cfg.alone()
	if err != nil {
		return Made{}, err
	}
	var made Made
	err = t.session(ctx, pkcs11.CKF_RW_SESSION, func(s session) error { return s.makeRootKeys(cfg, o, &made) })
	return made, errors.Join(err, t.end())
}

// makeRootKeys does the work of Init, in a session that can write.
func (s session) makeRootKeys(c Config, o InitOptions, made *Made) error {
	made.Token = s.link.token
	kek, record, err := s.rootKeysThere(c)
	if err != nil {
		return err
	}
	if !kek {
		if err := s.makeKEK(c, o); err != nil {
			return err
		}
		made.KEK = true
	}
	if _, err := s.checkMechanisms(c); err != nil {
		return err
	}
	// A token with a KEK that is refused gets no record key either.
	checks, err := s.examineKEK(c)
	if err == nil {
		err = refused(checks)
	}
	if err != nil {
		return err
	}
	if !record {
		if err := s.makeRecordKey(c.RecordKey, o); err != nil {
			return err
		}
		made.RecordKey = true
	}
	if err := s.ready(c); err != nil {
		return err
	}
	made.Copyable = s.link.extractable
	made.Rotatable = !made.Copyable && s.link.present().form == rotatableForm
	return nil
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

// makeKEK makes the KEK: one that can be replaced, unless the token is not known to
// keep to what that needs, or the caller wants none.
func (s session) makeKEK(c Config, o InitOptions) error {
	form := rotatableForm
	if o.Strict {
		form = strictForm
	} else if err := s.keepsTrust(c); errors.Is(err, kms.ErrUnsupported) || errors.Is(err, kms.ErrDenied) {
		form = strictForm
	} else if err != nil {
		return fmt.Errorf("hsm: whether the token can have a KEK that can be replaced: %w", err)
	}
	_, err := s.generate(pkcs11.CKM_AES_KEY_GEN, c.KEK, o.copyable(kekTemplate(c.KEK)),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, unwrapTemplate(form)),
		pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false), pkcs11.NewAttribute(pkcs11.CKA_DESTROYABLE, false))
	return err
}

func kekTemplate(label string) []*pkcs11.Attribute {
	return append(rootTemplate(label, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, false))
}

// keepsTrust tries a KEK that can be replaced, as a session object. ErrUnsupported and
// ErrDenied say that the token cannot have one: it may not know the attributes, or not
// enforce them. A KEK that was made cannot be changed or destroyed, so this comes before.
func (s session) keepsTrust(c Config) error {
	if _, err := s.checkMechanisms(c); err != nil {
		return err
	}
	object, err := s.trialKEK()
	if c, ok := classOf(err); ok && c.unsure() {
		if object, err = s.trialKEK(); err != nil { // no fault, but a token that does not say what it does not know
			err = fmt.Errorf("%w: %w", err, kms.ErrUnsupported)
		}
	}
	if err != nil {
		return err
	}
	defer s.destroy(object)
	l := s.link
	keks, kek, id := l.keks, l.kek, l.kekID
	defer func() { l.keks, l.kek, l.kekID = keks, kek, id }()
	if _, err := s.addKEK("keygate-trial", object, true); err != nil {
		return err
	}
	k := l.present()
	if err := s.makeProbeUnder(k); err != nil {
		return err
	}
	if k.form != rotatableForm {
		return fmt.Errorf("hsm: the token does not keep to CKA_UNWRAP_TEMPLATE: %w", kms.ErrUnsupported)
	}
	return s.refusesReadable(k)
}

func (s session) trialKEK() (pkcs11.ObjectHandle, error) {
	template := override(kekTemplate("keygate-trial"), nil, map[uint]bool{pkcs11.CKA_TOKEN: false})
	return s.generate(pkcs11.CKM_AES_KEY_GEN, "keygate-trial", append(template, pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, unwrapTemplate(rotatableForm))))
}

func (s session) makeRecordKey(label string, o InitOptions) error {
	_, err := s.generate(pkcs11.CKM_GENERIC_SECRET_KEY_GEN, label, o.copyable(recordTemplate(label)),
		pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false), pkcs11.NewAttribute(pkcs11.CKA_DESTROYABLE, false))
	return err
}

func recordTemplate(label string) []*pkcs11.Attribute {
	return append(rootTemplate(label, pkcs11.CKK_GENERIC_SECRET),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false))
}

// copyable returns the template of a root key as o wants it.
func (o InitOptions) copyable(template []*pkcs11.Attribute) []*pkcs11.Attribute {
	if !o.Copyable {
		return template
	}
	return override(template, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_WRAP_WITH_TRUSTED, true)}, map[uint]bool{pkcs11.CKA_EXTRACTABLE: true})
}

// generate makes a key with a template and the attributes that not every token
// knows: of these, as many of the first as it does. Some say that they do not know
// one with a code that means any fault; another try is made only if the token is
// seen to have no key of that label, so that none is made twice.
func (s session) generate(mechanism uint, label string, template []*pkcs11.Attribute, optional ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	if s.link.plan != nil && isTokenObject(template) {
		s.link.plan.add(mechanism, label, template, optional)
		return 0, nil
	}
	var first error
	for n := len(optional); n >= 0; n-- {
		full := append(template[:len(template):len(template)], optional[:n]...)
		object, err := s.link.module.ctx.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, full)
		if err == nil {
			return object, nil
		}
		if first == nil {
			first = answered("C_GenerateKey", err)
		}
		c, _ := classOf(answered("C_GenerateKey", err))
		there, findErr := s.isThere(label)
		if there || findErr != nil || !c.unsure() && err != pkcs11.Error(pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) {
			return 0, errors.Join(answered("C_GenerateKey", err), findErr)
		}
	}
	return 0, first
}

// rootTemplate is what the KEK and the record key have in common. Neither can
// be changed or, where the token supports that, copied or destroyed.
func rootTemplate(label string, kind uint) []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, kind),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, kms.KeySize),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_ID, newObjectID()),
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

// newObjectID returns a random CKA_ID for a root key or a key pair.
func newObjectID() []byte {
	id := make([]byte, len(kekID{}))
	rand.Read(id)
	return id
}
