package hsm

import (
	"cmp"
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// DefaultSigningKey is the label of the key pair that InitSigningKey makes if
// Config.SigningKey is empty.
const DefaultSigningKey = "keygate-sign"

// InitSigningKey makes an EC key pair on P-256 in the token that cfg names, with the
// label Config.SigningKey, unless there is one, and signs with it once. The private key
// can sign and do nothing else, and never leaves the token. It returns the public key,
// and whether it made the pair. Of several tokens it is that of the first: a key pair
// cannot be copied to the others but by what their maker has for it.
func InitSigningKey(ctx context.Context, cfg Config) (public crypto.PublicKey, made bool, err error) {
	err = withSigningKey(ctx, cfg, func(s session, name KeyName) error {
		_, err := s.publicKeyOf(name)
		if errors.Is(err, ErrNoKey) {
			if err := s.isFree(name.Object); err != nil {
				return err
			}
			made = true
			err = s.makeSigningKey(name.Object)
		}
		if err != nil {
			return err
		}
		public, err = s.tryKey(name)
		return err
	})
	return public, made, err
}

// UseKey runs fn with a private key of the first token that cfg names, the signing key
// if name is empty. It is for commands, which have no Root: the root keys may not be
// there yet.
func UseKey(ctx context.Context, cfg Config, name KeyName, fn func(crypto.Signer) error) error {
	return withSigningKey(ctx, cfg, func(s session, signing KeyName) error {
		if name.Object == "" && len(name.ID) == 0 {
			name = signing
		}
		public, err := s.publicKeyOf(name)
		if err != nil {
			return err
		}
		return fn(sessionKey{s, name, public})
	})
}

// A sessionKey is a private key that is used in one session.
type sessionKey struct {
	session session
	name    KeyName
	public  crypto.PublicKey
}

func (k sessionKey) Public() crypto.PublicKey { return k.public }

func (k sessionKey) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	q, request, err := newSignature(k.name, digest, opts)
	if err != nil {
		return nil, err
	}
	answer, err := k.session.signDigest(request, digest)
	if err == nil && !q.verifies(k.public, digest, answer) {
		err = errWrongSignature
	}
	return answer, err
}

// withSigningKey runs fn in a session of the first token, without a look at the root
// keys: there may be none yet.
func withSigningKey(ctx context.Context, cfg Config, fn func(session, KeyName) error) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	cfg = cfg.EachToken()[0]
	t, err := cfg.alone(ctx, true)
	if err != nil {
		return err
	}
	err = t.session(ctx, 0, func(s session) error {
		return fn(s, KeyName{Object: cmp.Or(cfg.SigningKey, DefaultSigningKey)})
	})
	return errors.Join(err, t.end())
}

func (s session) publicKeyOf(name KeyName) (crypto.PublicKey, error) {
	request, err := json.Marshal(name)
	if err != nil {
		return nil, err
	}
	der, err := s.publicKey(request)
	if err != nil {
		return nil, err
	}
	return x509.ParsePKIXPublicKey(der)
}

// isFree returns an error if the token has a private or a public key with the label:
// a pair that is not whole, or two of them, is nothing to add another to.
func (s session) isFree(label string) error {
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
		found, err := s.find([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}, 1)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return fmt.Errorf("hsm: the token has private or public keys %q already, which are no key pair: %w", label, kms.ErrDenied)
		}
	}
	return nil
}

// makeSigningKey makes the key pair with as many of the attributes that not every
// token knows as this one does.
func (s session) makeSigningKey(label string) error {
	k, err := s.link.module.keysOf(s.link)
	if err != nil {
		return err
	}
	optional := []uint{pkcs11.CKA_COPYABLE, pkcs11.CKA_DESTROYABLE, pkcs11.CKA_SIGN_RECOVER}
	id := newObjectID()
	for n := len(optional); ; n-- {
		public, private, err := signingTemplates(id, label, optional[:n])
		if err != nil {
			return err
		}
		_, err = k.ctx.GenerateECDSAKeyPairWithAttributes(public, private, elliptic.P256())
		if err == nil {
			return nil
		}
		err = fromCrypto11("make a key pair", err)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != pkcs11.CKR_ATTRIBUTE_TYPE_INVALID || n == 0 {
			return err
		}
		if findErr := s.isFree(label); findErr != nil {
			return errors.Join(err, findErr)
		}
	}
}

// signingTemplates returns the templates of the signing key pair, with the attributes
// of off false in the private one.
func signingTemplates(id []byte, label string, off []uint) (public, private crypto11.AttributeSet, err error) {
	if public, err = crypto11.NewAttributeSetWithIDAndLabel(id, []byte(label)); err != nil {
		return nil, nil, fmt.Errorf("hsm: %w", err)
	}
	private = public.Copy()
	set := func(a crypto11.AttributeSet, kind uint, value bool) { err = errors.Join(err, a.Set(kind, value)) }
	set(public, pkcs11.CKA_TOKEN, true)
	set(public, pkcs11.CKA_PRIVATE, false)
	set(public, pkcs11.CKA_VERIFY, true)
	set(public, pkcs11.CKA_ENCRYPT, false)
	set(public, pkcs11.CKA_WRAP, false)
	set(public, pkcs11.CKA_MODIFIABLE, false)
	for _, kind := range []uint{pkcs11.CKA_TOKEN, pkcs11.CKA_PRIVATE, pkcs11.CKA_SENSITIVE, pkcs11.CKA_SIGN} {
		set(private, kind, true)
	}
	for _, kind := range append([]uint{pkcs11.CKA_EXTRACTABLE, pkcs11.CKA_DECRYPT, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE, pkcs11.CKA_MODIFIABLE}, off...) {
		set(private, kind, false)
	}
	return public, private, err
}

// tryKey signs with a key, and returns its public key.
func (s session) tryKey(name KeyName) (crypto.PublicKey, error) {
	public, err := s.publicKeyOf(name)
	if err != nil {
		return nil, err
	}
	digest := make([]byte, crypto.SHA256.Size())
	rand.Read(digest)
	_, err = sessionKey{s, name, public}.Sign(nil, digest, crypto.SHA256)
	return public, err
}
