package hsm

import (
	"fmt"

	"github.com/keygate/keygate/kms"
)

// An op is what a token is asked to do, as a value: a worker process gets it over
// a socket. Every op may be repeated: a key that is made twice is lost once.
type op struct {
	kind    opKind
	handle  []byte      // of the key to use or to destroy; nil: none, or the record key
	purpose kms.Purpose // of the key to make or to use; zero: no key of a handle is used
	id      kms.KeyID   // of the key to make
	number  kekID       // of the first key to make, or of one to destroy that has no handle, in the token; see leftovers.go
	begun   *begun      // how many were begun to be made there
	a, b    []byte      // plaintext, ciphertext, message or key to import; additional data
	size    int         // random bytes to make
	once    bool        // one try, without a wait for a connection: there is another token
}

type opKind uint8

const (
	opNewKey    opKind = 1 + iota // answers the handle
	opEncrypt                     // a under b; answers the ciphertext
	opDecrypt                     // a under b; answers the plaintext
	opMAC                         // of a; answers kms.MACSize bytes
	opRandom                      // answers size bytes
	opStatus                      // answers nothing
	opDestroy                     // answers nothing
	opSign                        // the digest a, as b says; answers the signature
	opPublicKey                   // of the private key that b names; answers it in PKIX DER
	opAttest                      // for the nonce a, as b says; answers a signed statement
	opRewrap                      // of the handle a; answers the new one, or nothing if there is nothing to do
	opWrappedBy                   // the handle a; answers 1 if by the present KEK, else 0, and the KEK's label
	opLoad                        // the wrapped key of the handle a, and use it once; answers nothing
	opKindAfter                   // one more than the last
)

// slow reports whether o may take long where no other call does.
func (o *op) slow() bool {
	return o.kind == opNewKey || o.kind == opRewrap || o.kind == opLoad || o.kind == opAttest
}

// perform does o with the key k, and with a and b, which are copies of o's. What
// it returns may be secret.
func (s session) perform(o *op, k *loaded, a, b []byte) ([]byte, error) {
	if o.kind == opDecrypt {
		return s.decrypt(k, a, b)
	}
	result, err := settle(s, nil, func() error { return s.performKnown(o, k) },
		func() ([]byte, error) { return s.performOnce(o, k, a, b) })
	if err == nil && o.loads() {
		if err = s.sure(k); err != nil {
			clear(result)
			return nil, err
		}
	}
	return result, err
}

// performKnown does what o does, with arguments of which it is known that the token
// takes them. That can not be known of keys to import, so a key is made; of a key that is
// to be in the token, or that o names, the canary must do, which leaves none there; and of private keys, which may not do all that a client of TLS asks for,
// that the token signs at all, with the record key.
func (s session) performKnown(o *op, k *loaded) error {
	known := op{kind: o.kind, purpose: o.purpose, size: min(o.size, 1)}
	switch {
	case o.kind == opSign || o.kind == opPublicKey || o.kind == opAttest:
		return s.useLinkKeys()
	case o.resident() || o.names():
		return s.canary()
	}
	_, err := s.performOnce(&known, k, nil, nil)
	return err
}

func (s session) performOnce(o *op, k *loaded, a, b []byte) ([]byte, error) {
	switch o.kind {
	case opNewKey:
		h, err := s.makeKey(o, a)
		if err != nil {
			return nil, err
		}
		return h.marshal(), nil
	case opEncrypt:
		return s.seal(k.object, nil, a, b)
	case opMAC:
		mac, err := s.mac(k.object, a)
		return mac[:], err
	case opRandom:
		return s.random(o.size)
	case opStatus:
		return nil, s.useLinkKeys()
	case opSign:
		return s.signDigest(b, a)
	case opPublicKey:
		return s.publicKey(b)
	case opAttest:
		return s.statement(b, a)
	case opRewrap:
		return s.rewrap(a)
	case opWrappedBy:
		return s.link.wrappedBy(a)
	case opLoad:
		return nil, s.tryHandle(a)
	}
	return nil, fmt.Errorf("hsm: operation %d: %w", o.kind, kms.ErrUnsupported)
}

// names reports whether a or b say what o is to be done with: nothing can be done
// without them.
func (o *op) names() bool { return o.kind >= opSign }

// loads reports whether o uses a key of a handle.
func (o *op) loads() bool {
	return o.kind == opEncrypt || o.kind == opDecrypt || o.kind == opMAC && o.handle != nil
}
