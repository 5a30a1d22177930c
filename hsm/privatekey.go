package hsm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/ThalesGroup/crypto11"

	"github.com/keygate/keygate/kms"
)

// A KeyName names a private key in a token, by its CKA_LABEL, its CKA_ID, or both.
type KeyName struct {
	Object string `json:"object,omitempty"`
	ID     []byte `json:"id,omitempty"`
}

// ParseKeyName reads a PKCS #11 URI (RFC 7512) that names a private key in the token
// of the root: pkcs11:object=LABEL, pkcs11:id=%01%02, or both, maybe with type=private.
// Which token it is, the root knows: other attributes are refused.
func ParseKeyName(s string) (KeyName, error) {
	u, err := parseURI(s, "object", "id", "type")
	if err != nil {
		return KeyName{}, fmt.Errorf("hsm: %q: %w", s, err)
	}
	name := KeyName{Object: u.path["object"], ID: []byte(u.path["id"])}
	kind, typed := u.path["type"]
	switch {
	case len(u.query) > 0:
		return KeyName{}, fmt.Errorf("hsm: %q: the part after the ? is not used here: the token is that of root.pkcs11", s)
	case typed && kind != "private":
		return KeyName{}, fmt.Errorf("hsm: %q: type is %q, not private", s, kind)
	case name.Object == "" && len(name.ID) == 0:
		return KeyName{}, fmt.Errorf("hsm: %q names no key: object=LABEL, id=%%01%%02, or both", s)
	}
	return name, nil
}

func (n KeyName) String() string {
	switch {
	case len(n.ID) == 0:
		return fmt.Sprintf("%q", n.Object)
	case n.Object == "":
		return "with the CKA_ID " + hex.EncodeToString(n.ID)
	}
	return fmt.Sprintf("%q with the CKA_ID %x", n.Object, n.ID)
}

// ErrNoKey says that a token has no such private key, or more than one, or has it
// without the public key, which is needed too. It says nothing about the token.
var ErrNoKey = errors.New("hsm: no such private key")

// A signature is what is asked for with opSign, beside the digest: the argument b of
// the op, as JSON.
type signature struct {
	Key  KeyName     `json:"key"`
	Hash crypto.Hash `json:"hash,omitempty"` // that made the digest
	PSS  bool        `json:"pss,omitempty"`  // RSASSA-PSS, with a salt as long as the digest; else RSA signs as in PKCS #1 v1.5
}

// newSignature returns how a digest is to be signed as crypto.Signer wants it, also as
// JSON.
func newSignature(key KeyName, digest []byte, opts crypto.SignerOpts) (q signature, request []byte, err error) {
	q = signature{Key: key, Hash: opts.HashFunc()}
	if pss, ok := opts.(*rsa.PSSOptions); ok {
		if l := pss.SaltLength; l != rsa.PSSSaltLengthAuto && l != rsa.PSSSaltLengthEqualsHash && l != q.Hash.Size() {
			return q, nil, fmt.Errorf("hsm: a salt of %d bytes: %w", l, kms.ErrUnsupported)
		}
		q.PSS = true
	}
	if !q.Hash.Available() || len(digest) != q.Hash.Size() {
		return q, nil, fmt.Errorf("hsm: a digest of %d bytes that hash %d did not make: %w", len(digest), q.Hash, kms.ErrUnsupported)
	}
	request, err = json.Marshal(q)
	return q, request, err
}

func (q signature) options() crypto.SignerOpts {
	if q.PSS {
		return &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: q.Hash}
	}
	return q.Hash
}

// signDigest signs with a private key of the token.
func (s session) signDigest(request, digest []byte) ([]byte, error) {
	var q signature
	if err := json.Unmarshal(request, &q); err != nil {
		return nil, fmt.Errorf("hsm: a request to sign: %w: %w", err, kms.ErrUnsupported)
	}
	if q.Hash.Available() && len(digest) != q.Hash.Size() {
		return nil, fmt.Errorf("hsm: a digest of %d bytes, not %d: %w", len(digest), q.Hash.Size(), kms.ErrUnsupported)
	}
	return withKey(s, q.Key, func(key crypto11.Signer) (signed []byte, err error) {
		defer s.link.module.ctx.book.enter(fnSign).done(&err)
		return key.Sign(rand.Reader, fits(key.Public(), digest), q.options())
	})
}

// publicKey returns the public key (PKIX, DER) of a private key of the token.
func (s session) publicKey(request []byte) ([]byte, error) {
	var name KeyName
	if err := json.Unmarshal(request, &name); err != nil {
		return nil, fmt.Errorf("hsm: the name of a key: %w: %w", err, kms.ErrUnsupported)
	}
	return withKey(s, name, func(key crypto11.Signer) ([]byte, error) { return x509.MarshalPKIXPublicKey(key.Public()) })
}

// fits cuts a digest to the size of an ECDSA key's order (FIPS 186-5 6.4.1), which not
// every token does.
func fits(public crypto.PublicKey, digest []byte) []byte {
	if k, ok := public.(*ecdsa.PublicKey); ok {
		return digest[:min(len(digest), (k.Params().BitSize+7)/8)]
	}
	return digest
}

// withKey runs fn with a private key. A key whose handle the token no longer knows is
// looked for once more; if it is gone the answer is ErrNoKey, as the token is none the
// worse for it.
func withKey(s session, name KeyName, fn func(crypto11.Signer) ([]byte, error)) (result []byte, err error) {
	m := s.link.module
	k, err := m.keysOf(s.link)
	if err != nil {
		if m.owesKeys() && m.worthKeys() {
			s.link.broken.Store(true) // connect has the library initialised anew
		}
		return nil, err
	}
	defer func() {
		if p := recover(); p != nil { // crypto11 panics where it is in doubt
			m.dropKeys(s.link, k)
			err = fmt.Errorf("hsm: crypto11: panic: %v: %w\n%s", p, kms.ErrUnavailable, debug.Stack())
		}
	}()
	for tries := 0; ; tries++ {
		if result, err = k.use(name, s.link.wait, fn); err == nil {
			return result, nil
		}
		c, faulty := classOf(err)
		switch {
		case errors.Is(err, errTurn) && !k.hangs(s.link.timeout):
			return nil, err
		case !faulty && !errors.Is(err, kms.ErrUnavailable) || c == requestFault:
			return nil, err
		case faulty && c == objectFault && tries == 0:
			k.forget(name)
		case faulty && c == objectFault:
			k.forget(name)
			return nil, fmt.Errorf("hsm: %w: %s: %w", ErrNoKey, name, &settled{err})
		default:
			m.dropKeys(s.link, k)
			return nil, err
		}
	}
}

// use runs fn with a private key. It waits no longer than so for what another call has.
func (k *slotKeys) use(name KeyName, wait time.Duration, fn func(crypto11.Signer) ([]byte, error)) ([]byte, error) {
	if !k.using.take(wait) {
		return nil, errTurn
	}
	defer k.using.give()
	key, err := k.key(name, wait)
	if err != nil {
		return nil, err
	}
	result, err := fn(key)
	if err != nil {
		return nil, fromCrypto11("sign", err)
	}
	return result, nil
}

// hangs reports whether calls that others wait for have taken longer than a call may.
func (k *slotKeys) hangs(long time.Duration) bool {
	return k.using.hangs(long) || k.looking.hangs(long)
}

// key returns a private key, which has been looked for and looked at once.
func (k *slotKeys) key(name KeyName, wait time.Duration) (crypto11.Signer, error) {
	if key := k.known(name); key != nil {
		return key, nil
	}
	if !k.looking.take(wait) {
		return nil, errTurn
	}
	defer k.looking.give()
	if key := k.known(name); key != nil {
		return key, nil // another call was first
	}
	key, err := k.find(name)
	if err == nil {
		k.keep(name, key)
	}
	return key, err
}

func (k *slotKeys) known(name KeyName) crypto11.Signer {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[name.String()]
}

func (k *slotKeys) keep(name KeyName, key crypto11.Signer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[name.String()] = key
}

func (k *slotKeys) forget(name KeyName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, name.String())
}

func (k *slotKeys) find(name KeyName) (crypto11.Signer, error) {
	var label []byte
	if name.Object != "" {
		label = []byte(name.Object)
	}
	found, err := k.ctx.FindKeyPairs(name.ID, label)
	if err != nil {
		return nil, fromCrypto11("find a key pair", err)
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%w: the token has %d key pairs %s", ErrNoKey, len(found), name)
	}
	if err := usable(found[0].Public()); err != nil {
		return nil, fmt.Errorf("hsm: the private key %s: %w", name, err)
	}
	return found[0], k.keeps(found[0], name)
}

// usable returns an error for a key that nothing here signs with.
func usable(public crypto.PublicKey) error {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("curve %s is not P-256 or P-384: %w", key.Params().Name, kms.ErrUnsupported)
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSA {
			return nil
		}
		return fmt.Errorf("RSA of %d bits is less than %d: %w", key.N.BitLen(), minRSA, kms.ErrUnsupported)
	}
	return fmt.Errorf("it is neither ECDSA nor RSA: %w", kms.ErrUnsupported)
}

// minRSA is in bits (NIST SP 800-131A: 112 bits of security).
const minRSA = 2048

// keeps refuses a private key that could leave the token.
func (k *slotKeys) keeps(key crypto11.Signer, name KeyName) error {
	for _, r := range privateRules {
		a, err := k.ctx.GetAttribute(key, r.attribute)
		if err != nil {
			return fromCrypto11("read an attribute", err)
		}
		if is := len(a.Value) == 1 && a.Value[0] != 0; is != r.want {
			return fmt.Errorf("hsm: the private key %s: %s is %v and must be %v: %s: %w", name, r.name, is, r.want, r.why, errWeakKey)
		}
	}
	return nil
}

var errWeakKey = errors.New("hsm: the key is refused")
