package hsm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

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
// which it returned nil can be opened. It logs in once, and again to look at what it
// has made. Of two that run at the same time at least one returns an error.
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
	if err := o.check(cfg); err != nil {
		return Made{}, err
	}
	t, err := cfg.alone(ctx, false)
	if err != nil {
		return Made{}, err
	}
	var made Made
	err = t.session(ctx, pkcs11.CKF_RW_SESSION, func(s session) error { return s.makeRootKeys(cfg, o, &made) })
	if err == nil && (made.KEK || made.RecordKey) {
		err = t.onlyOnes(ctx)
	}
	return made, errors.Join(err, t.end())
}

// check returns an error if the configuration would refuse what o makes.
func (o InitOptions) check(c Config) error {
	if o.Copyable && c.Copyable != copyableAllowed {
		return fmt.Errorf("hsm: copyable: keys that can be copied are to be made, and the configuration does not have copyable: %s: %w", copyableAllowed, kms.ErrDenied)
	}
	return nil
}

// onlyOnes looks in a connection of its own whether the keys are the only ones of their
// labels: another run may have made some at the same time, and PKCS#11 has nothing by
// which one could keep out the other. Some modules show another process's objects in a
// new connection only.
func (t *token) onlyOnes(ctx context.Context) error {
	if !t.module.resets.serves() {
		_ = t.module.reinitialize(ctx, t.module.generation()) // or another part of the process uses it
	}
	return t.session(ctx, 0, func(s session) error {
		_, _, err := s.rootKeysThere(t.cfg)
		return err
	})
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

// makeKEK makes the KEK: one that can be replaced, unless the caller wants none. What a
// KEK is can never be changed, so a token that cannot have such a one, or had a fault
// when that was tried, gets none.
func (s session) makeKEK(c Config, o InitOptions) error {
	form := rotatableForm
	if o.Strict {
		form = strictForm
	} else if err := s.keepsTrust(c); err != nil {
		return fmt.Errorf("hsm: the token does not show that it can have a KEK that can be replaced, and none was made (one that never can be replaced is made with --rotatable=false): %w", err)
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
// knows: those that it does. A key of the token is made if none of that label is there
// now, so that none is made twice.
func (s session) generate(mechanism uint, label string, template []*pkcs11.Attribute, optional ...*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	if err := checkRootKeyLabel(label); err != nil {
		return 0, err
	}
	stays := isTokenObject(template)
	if s.link.plan != nil && stays {
		s.link.plan.add(mechanism, label, template, optional)
		return 0, nil
	}
	var known []*pkcs11.Attribute
	for _, a := range optional {
		takes, err := s.knowsAttribute(mechanism, template, a)
		if err != nil {
			return 0, err
		}
		if takes {
			known = append(known, a)
		}
	}
	if !stays {
		return s.generateKey(mechanism, slices.Concat(template, known))
	}
	return s.generateToStay(mechanism, label, template, known)
}

// generateToStay makes a key of the token. Some, such as NSS, do not keep an attribute of
// one that they know of a session object. It is left out if the token refuses it twice,
// and makes the session object after each time: a fault must not change what is made.
func (s session) generateToStay(mechanism uint, label string, template, known []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	full := slices.Concat(template, known)
	for tries := 0; ; tries++ {
		if there, err := s.isThere(label); err != nil {
			return 0, err
		} else if there {
			return 0, fmt.Errorf("hsm: the token has a key %q by now, which this has not made: %w", label, kms.ErrDenied)
		}
		object, err := s.generateKey(mechanism, full)
		if c, _ := classOf(err); err == nil || len(full) == len(template) || c != requestFault && !c.unsure() {
			return object, err
		}
		if err := s.makesKey(mechanism, override(full, nil, map[uint]bool{pkcs11.CKA_TOKEN: false})); err != nil {
			return 0, err
		}
		if tries%2 == 1 {
			full = full[:len(full)-1]
		}
	}
}

func (s session) generateKey(mechanism uint, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	object, err := s.link.module.ctx.GenerateKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, template)
	return object, answered("C_GenerateKey", err)
}

// knowsAttribute tries out, with a session object, whether the token makes a key with an
// attribute. Some say that they do not know one with a code that means any fault: so it
// does not if it makes a key without it, but neither before nor after one with it.
func (s session) knowsAttribute(mechanism uint, template []*pkcs11.Attribute, a *pkcs11.Attribute) (bool, error) {
	without := override(template, nil, map[uint]bool{pkcs11.CKA_TOKEN: false})
	with := append(without[:len(without):len(without)], a)
	for range 2 {
		err := s.makesKey(mechanism, with)
		if err == nil {
			return true, nil
		}
		if c, ok := classOf(err); !ok || c != requestFault && !c.unsure() {
			return false, err
		}
		if err := s.makesKey(mechanism, without); err != nil {
			return false, err
		}
	}
	return false, nil
}

// makesKey makes a session object, and destroys it, unless it is one that cannot be
// destroyed, and ends with the session.
func (s session) makesKey(mechanism uint, template []*pkcs11.Attribute) error {
	object, err := s.generateKey(mechanism, template)
	if err != nil {
		return err
	}
	err = s.destroy(object)
	if c, ok := classOf(err); ok && c == requestFault {
		return nil
	}
	return err
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
