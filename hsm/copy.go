package hsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// How root keys are copied to another token. The destination makes an RSA key pair, as
// session objects. The security officer of the source imports the public half with
// CKA_TRUSTED, as a session object, too, and logs out; the user of the source wraps the
// root keys by it (RSAES-OAEP), and the destination unwraps them: first as session
// objects, whose check values are compared with those of the source, then as token
// objects, the KEK first: a copy that was ended between the two is taken up there.
// Neither half of the pair outlives the sessions.

// Copied says what CopyRootKeys did.
type Copied struct {
	From TokenInfo `json:"from"`
	To   TokenInfo `json:"to"`
	// The SHA-256 of the transfer key's modulus and exponent, as each token says
	// it is.
	FromFingerprint string `json:"from_fingerprint"`
	ToFingerprint   string `json:"to_fingerprint"`
	Hash            string `json:"hash"` // of OAEP
	// The check values of the keys, as the destination computes them, which were
	// those of the source.
	KEK       string `json:"kek"`
	RecordKey string `json:"record_key"`
}

// transferBits is the size of the RSA modulus (NIST SP 800-57 part 1, 5.6.1: 128 bits of
// strength).
const transferBits = 3072

// CopyRootKeys copies the KEK and the record key of one token to another that has
// neither, or only that KEK, if they were made to be copied: see InitOptions.Copyable. officer says where
// the PIN of the source's security officer is. It returns ErrUnsupported for keys that
// can never leave their token.
//
// No other part of this process may use the tokens meanwhile.
func CopyRootKeys(ctx context.Context, from, to Config, officer PIN) (copied Copied, err error) {
	source, err := openToCopy(ctx, from)
	if err != nil {
		return copied, fmt.Errorf("from: %w", err)
	}
	defer func() { err = errors.Join(err, source.end()) }()
	destination, err := openToCopy(ctx, to)
	if err != nil {
		return copied, fmt.Errorf("to: %w", err)
	}
	defer func() { err = errors.Join(err, destination.end()) }()
	if err := officer.check(); err != nil {
		return copied, err
	}
	so := &pinSource{from: officer}
	defer so.forget()
	err = source.session(ctx, pkcs11.CKF_RW_SESSION, func(a session) error {
		return destination.session(ctx, pkcs11.CKF_RW_SESSION, func(b session) error {
			c := transfer{source: source, officer: so, a: a, b: b, from: source.cfg, to: destination.cfg, copied: &copied}
			return c.run()
		})
	})
	return copied, err
}

// openToCopy returns the token that a configuration of one names; end has to follow.
func openToCopy(ctx context.Context, cfg Config) (*token, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if len(cfg.Tokens) > 0 || len(cfg.OtherKEKs) > 0 || cfg.Copyable != copyableAllowed {
		return nil, fmt.Errorf("hsm: a configuration of one token is needed, without other_keks, and with copyable: %s: %w", copyableAllowed, kms.ErrDenied)
	}
	return cfg.alone(ctx, false)
}

// A transfer is one run of CopyRootKeys, from a's token to b's.
type transfer struct {
	source   *token
	officer  *pinSource
	a, b     session
	from, to Config
	copied   *Copied

	half            pkcs11.ObjectHandle // the KEK that b has of a copy that was ended, or 0
	hash            oaepHash
	public, private pkcs11.ObjectHandle // of the pair, in b
	kek, record     []byte              // wrapped by it
}

// An oaepHash is a hash of RSAES-OAEP and its mask. SoftHSM has SHA-1 only, which is no
// weakness here: OAEP needs no resistance to collisions (RFC 8017 7.1).
type oaepHash struct {
	name     string
	hash, mg uint
}

var oaepHashes = []oaepHash{
	{"SHA-256", pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256},
	{"SHA-1", pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1},
}

func (h oaepHash) mechanism() []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(h.hash, h.mg, pkcs11.CKZ_DATA_SPECIFIED, nil))}
}

func (c *transfer) run() error {
	c.copied.From, c.copied.To = c.a.link.token, c.b.link.token
	for _, step := range []func() error{c.look, c.makePair, c.wrap, c.compare, c.keep} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// look examines both tokens: the keys of the source are good and may leave it, and the
// destination has none, or half of them.
func (c *transfer) look() error {
	if err := errors.Join(checkRootKeyLabel(c.to.KEK), checkRootKeyLabel(c.to.RecordKey)); err != nil {
		return err
	}
	if there, err := c.b.isThere(c.to.RecordKey); err != nil {
		return err
	} else if there {
		return hasKey(c.to.RecordKey)
	}
	if _, err := c.b.checkMechanisms(c.to); err != nil {
		return err
	}
	if err := c.a.ready(c.from); err != nil {
		return err
	}
	if err := c.lookForHalf(); err != nil {
		return err
	}
	for label, key := range map[string]pkcs11.ObjectHandle{c.from.KEK: c.a.link.kek, c.from.RecordKey: c.a.link.recordKey.object} {
		if extractable, err := c.a.flag(key, pkcs11.CKA_EXTRACTABLE); err != nil {
			return err
		} else if !extractable {
			return fmt.Errorf("hsm: %q was made never to leave its token (CKA_EXTRACTABLE false), so PKCS#11 cannot copy it: clone or back up the token in the way of its maker (docs/operations.md): %w", label, kms.ErrUnsupported)
		}
	}
	return nil
}

func hasKey(label string) error {
	return fmt.Errorf("hsm: the destination has a key %q: nothing was done: %w", label, kms.ErrDenied)
}

// lookForHalf finds the KEK of the destination if it has the name, and the id, of the
// source's: compare shows whether it is the same key.
func (c *transfer) lookForHalf() error {
	key, err := c.b.findKey(c.to.KEK)
	if _, missing := errors.AsType[*notFoundError](err); missing {
		return nil
	}
	if err != nil {
		return err
	}
	id, err := c.b.attribute(key, pkcs11.CKA_ID)
	if err == nil && !bytes.Equal(id, c.a.link.kekID[:]) {
		err = hasKey(c.to.KEK)
	}
	c.half = key
	return err
}

// makePair makes the transfer key in the destination.
func (c *transfer) makePair() (err error) {
	id := newObjectID()
	public := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, transferBits),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
	}
	private := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, false),
	}
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)}
	c.public, c.private, err = c.b.link.module.ctx.GenerateKeyPair(c.b.handle, m, public, private)
	return answered("C_GenerateKeyPair", err)
}

// modulus returns the modulus and the exponent of an RSA public key.
func (s session) modulus(public pkcs11.ObjectHandle) (n, e []byte, err error) {
	if n, err = s.attribute(public, pkcs11.CKA_MODULUS); err != nil {
		return nil, nil, err
	}
	e, err = s.attribute(public, pkcs11.CKA_PUBLIC_EXPONENT)
	return n, e, err
}

func (s session) fingerprint(public pkcs11.ObjectHandle) (string, error) {
	n, e, err := s.modulus(public)
	return fmt.Sprintf("%x", sha256.Sum256(append(n[:len(n):len(n)], e...))), err
}

// wrap has the source wrap the root keys by the transfer key.
func (c *transfer) wrap() error {
	n, e, err := c.b.modulus(c.public)
	if err != nil {
		return err
	}
	public, err := c.a.asOfficer(c.officer, func() (pkcs11.ObjectHandle, error) { return c.a.importTrusted(n, e) })
	if err != nil {
		return fmt.Errorf("hsm: the security officer of the source cannot make the transfer key CKA_TRUSTED: %w", err)
	}
	defer c.a.destroy(public)
	if c.copied.ToFingerprint, err = c.b.fingerprint(c.public); err != nil {
		return err
	}
	if c.copied.FromFingerprint, err = c.a.fingerprint(public); err != nil {
		return err
	}
	if c.copied.FromFingerprint != c.copied.ToFingerprint {
		return fmt.Errorf("hsm: the transfer key of the source is %s, and that of the destination %s: %w", c.copied.FromFingerprint, c.copied.ToFingerprint, kms.ErrDenied)
	}
	if err := c.source.login(c.a); err != nil {
		return err
	}
	// The handles of before the logout hold no longer (PKCS#11 v2.40 5.6).
	if err := c.a.ready(c.from); err != nil {
		return err
	}
	if c.hash, err = c.commonHash(public); err != nil {
		return err
	}
	c.copied.Hash = c.hash.name
	if c.kek, err = c.a.wrapBy(c.hash, public, c.a.link.kek); err != nil {
		return err
	}
	c.record, err = c.a.wrapBy(c.hash, public, c.a.link.recordKey.object)
	return err
}

// importTrusted makes a public session object that wraps keys under trusted control.
func (s session) importTrusted(modulus, exponent []byte) (pkcs11.ObjectHandle, error) {
	object, err := s.link.module.ctx.CreateObject(s.handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, true),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
		pkcs11.NewAttribute(pkcs11.CKA_TRUSTED, true),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS, modulus),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, exponent),
	})
	return object, answered("C_CreateObject", err)
}

// commonHash returns the first hash by which the source wraps a key that the
// destination unwraps.
func (c *transfer) commonHash(public pkcs11.ObjectHandle) (oaepHash, error) {
	var last error
	for _, h := range oaepHashes {
		last = c.tryHash(h, public)
		if last == nil {
			return h, nil
		}
		if class, ok := classOf(last); !ok || class != requestFault {
			break
		}
	}
	return oaepHash{}, last
}

func (c *transfer) tryHash(h oaepHash, public pkcs11.ObjectHandle) error {
	known := sha256.Sum256([]byte(checkValueMessage))
	object, err := c.a.knownKey(known[:], pkcs11.CKA_ENCRYPT)
	if err != nil {
		return err
	}
	defer c.a.destroy(object)
	wrapped, err := c.a.wrapBy(h, public, object)
	if err != nil {
		return err
	}
	object, err = c.b.unwrapBy(h, c.private, wrapped, keyTemplate(kms.Encryption, false))
	if err != nil {
		return err
	}
	return c.b.destroy(object)
}

func (s session) wrapBy(h oaepHash, public, key pkcs11.ObjectHandle) ([]byte, error) {
	wrapped, err := s.link.module.ctx.WrapKey(s.handle, h.mechanism(), public, key)
	return wrapped, answered("C_WrapKey", err)
}

func (s session) unwrapBy(h oaepHash, private pkcs11.ObjectHandle, wrapped []byte, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	object, err := s.link.module.ctx.UnwrapKey(s.handle, h.mechanism(), private, wrapped, template)
	return object, answered("C_UnwrapKey", err)
}

// compare shows that the destination has the same keys, before it keeps them.
func (c *transfer) compare() error {
	kek, err := c.b.unwrapBy(c.hash, c.private, c.kek, c.kekTemplate(false))
	if err != nil {
		return fmt.Errorf("KEK: %w", err)
	}
	defer c.b.destroy(kek)
	record, err := c.b.unwrapBy(c.hash, c.private, c.record, c.recordTemplate(false))
	if err != nil {
		return fmt.Errorf("record key: %w", err)
	}
	defer c.b.destroy(record)
	if c.half != 0 {
		if err := c.same(c.half, record); err != nil {
			return err
		}
	}
	return c.same(kek, record)
}

// same compares check values of keys of the destination with those of the source.
func (c *transfer) same(kek, record pkcs11.ObjectHandle) error {
	ours, ourRecord, err := c.a.checkValues(c.a.link.kek, c.a.link.recordKey.object)
	if err != nil {
		return err
	}
	c.copied.KEK, c.copied.RecordKey, err = c.b.checkValues(kek, record)
	if err != nil {
		return err
	}
	if ours == "" {
		return fmt.Errorf("hsm: the KEK of the source has no check value, so nobody can say whether it arrived; nothing was kept: %w", kms.ErrUnsupported)
	}
	if c.copied.KEK != ours || c.copied.RecordKey != ourRecord {
		return fmt.Errorf("hsm: the keys that arrived have the check values %s and %s, and those of the source %s and %s: nothing was kept: %w", c.copied.KEK, c.copied.RecordKey, ours, ourRecord, kms.ErrDenied)
	}
	return nil
}

// kekTemplate is that of Init, but that the id by which handles name the KEK, and its
// form, are those of the source's.
func (c *transfer) kekTemplate(keep bool) []*pkcs11.Attribute {
	k := c.a.link.present()
	return arriving(kekTemplate(c.to.KEK), k.id[:], keep, pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, unwrapTemplate(k.form)))
}

func (c *transfer) recordTemplate(keep bool) []*pkcs11.Attribute {
	return arriving(recordTemplate(c.to.RecordKey), newObjectID(), keep)
}

// arriving returns a template of a root key for a key that is unwrapped: it has an id of
// its own and no CKA_VALUE_LEN, which comes with the key, and CKA_MODIFIABLE is the
// last, as SoftHSM refuses what comes after it.
func arriving(template []*pkcs11.Attribute, id []byte, keep bool, more ...*pkcs11.Attribute) (all []*pkcs11.Attribute) {
	for _, a := range template {
		switch a.Type {
		case pkcs11.CKA_VALUE_LEN, pkcs11.CKA_MODIFIABLE:
		case pkcs11.CKA_ID:
			all = append(all, pkcs11.NewAttribute(pkcs11.CKA_ID, id))
		case pkcs11.CKA_TOKEN:
			all = append(all, pkcs11.NewAttribute(pkcs11.CKA_TOKEN, keep))
		default:
			all = append(all, a)
		}
	}
	all = append(all, more...)
	if keep {
		all = append(all, pkcs11.NewAttribute(pkcs11.CKA_DESTROYABLE, false))
	}
	return append(all, pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, false), pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, false))
}

// keep makes the keys token objects of the destination, and uses them as a gateway
// does. They cannot leave it again.
func (c *transfer) keep() error {
	if c.half == 0 {
		if _, err := c.b.unwrapBy(c.hash, c.private, c.kek, c.kekTemplate(true)); err != nil {
			return fmt.Errorf("KEK: %w", err)
		}
	}
	if _, err := c.b.unwrapBy(c.hash, c.private, c.record, c.recordTemplate(true)); err != nil {
		return fmt.Errorf("the KEK was copied, and the record key was not: copy again, and it is: %w", err)
	}
	if err := c.b.ready(c.to); err != nil {
		return err
	}
	return c.same(c.b.link.kek, c.b.link.recordKey.object)
}
