package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/keygate/keygate/kms"
)

// A Signer is a private key in a token of a Root: a crypto.Signer. A signature is one
// op, or two where the token is asked for the first time, so it takes no longer than
// Config.Timeout in each, waits in the queue of the token's calls, and is gone for if the
// module hangs.
//
// The public key is read once, and is that of the first token that answered. Another
// token signs only if it has shown the same one: it may have a pair of its own under the
// name, and then is as one without the key. Each signature is verified against the public
// key before it is given out: after the module was initialised anew or the token was
// replaced, a label or a handle may stand for another key.
type Signer struct {
	root   *Root
	name   KeyName
	der    []byte // the public key, PKIX
	public crypto.PublicKey
	has    []atomic.Bool // by member of the group: it has shown the public key
	last   atomic.Int64  // the member that has the key, as far as is known
}

var _ crypto.Signer = (*Signer)(nil)

// errWrongSignature says that what the token answered is no signature by the key.
var errWrongSignature = fmt.Errorf("hsm: the token's signature is not that of the key: %w", kms.ErrUnavailable)

// Signer returns the private key that name means: ECDSA on P-256 or P-384, or RSA of
// 2048 bits or more, that cannot leave the token, together with its public key. Of
// several tokens it is in at least one; where they have pairs of their own under the name,
// it is that of the first that answers. The root has to have been opened with
// Config.Signs or a SigningKey. ErrNoKey is returned if there is no such key.
func (r *Root) Signer(ctx context.Context, name KeyName) (*Signer, error) {
	s := &Signer{root: r, name: name, has: make([]atomic.Bool, len(r.group.members))}
	var err error
	if s.der, err = s.ask(func(at int) ([]byte, error) { return s.publicKeyIn(ctx, at) }); err != nil {
		return nil, err
	}
	s.has[s.last.Load()].Store(true)
	if s.public, err = x509.ParsePKIXPublicKey(s.der); err != nil {
		return nil, fmt.Errorf("hsm: the public key of %s: %w", name, err)
	}
	return s, nil
}

// Public returns the public key, *ecdsa.PublicKey or *rsa.PublicKey.
func (s *Signer) Public() crypto.PublicKey { return s.public }

// Sign signs a digest: with ECDSA in ASN.1 DER, or with RSA as opts says. The token
// takes its own random data. With RSASSA-PSS the salt is as long as the digest, which
// is what TLS wants (RFC 8446 4.2.3); other lengths are refused.
func (s *Signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	q, request, err := newSignature(s.name, digest, opts)
	if err != nil {
		return nil, err
	}
	return s.ask(func(at int) ([]byte, error) {
		ctx := context.Background()
		if err := s.seen(ctx, at); err != nil {
			return nil, err
		}
		answer, err := s.root.group.members[at].do(ctx, &op{kind: opSign, a: digest, b: request})
		if err == nil && !q.verifies(s.public, digest, answer) {
			s.root.wrongSignatures.Add(1)
			s.root.group.log.Error("hsm: a token's signature is not that of the key: it was not given out", "key", s.name.String())
			return nil, errWrongSignature
		}
		return answer, err
	})
}

// seen returns nil if the token of a member has shown the public key, once. One that has
// another is not ill, and may be given the key later.
func (s *Signer) seen(ctx context.Context, at int) error {
	if s.has[at].Load() {
		return nil
	}
	der, err := s.publicKeyIn(ctx, at)
	if err != nil {
		return err
	}
	if !bytes.Equal(der, s.der) {
		return fmt.Errorf("%w: %s: its key %s is another one", ErrNoKey, s.root.group.members[at].name, s.name)
	}
	s.has[at].Store(true)
	return nil
}

// publicKeyIn returns the public key, PKIX in DER, of the key of the name in the token of
// a member.
func (s *Signer) publicKeyIn(ctx context.Context, at int) ([]byte, error) {
	request, err := json.Marshal(s.name)
	if err != nil {
		return nil, err
	}
	return s.root.group.members[at].do(ctx, &op{kind: opPublicKey, b: request})
}

// verifies reports whether answer is the signature of a digest.
func (q signature) verifies(public crypto.PublicKey, digest, answer []byte) bool {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, answer)
	case *rsa.PublicKey:
		if q.PSS {
			return rsa.VerifyPSS(key, q.Hash, digest, answer, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
		return rsa.VerifyPKCS1v15(key, q.Hash, digest, answer) == nil
	}
	return false
}

// ask has the token that had the key last do something, and then the others, those that
// work first, until one succeeds. It asks each of them.
func (s *Signer) ask(do func(at int) ([]byte, error)) ([]byte, error) {
	var errs []error
	for _, at := range s.order() {
		answer, err := do(at)
		if err == nil {
			s.last.Store(int64(at))
			return answer, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 { // an empty answer without an error would be taken for a signature
		return nil, fmt.Errorf("hsm: no token was asked: %w", kms.ErrUnavailable)
	}
	return nil, errors.Join(errs...)
}

// order returns the places of all members in the order in which they are asked. Whether
// one works is looked at once: it may change while another is asked.
func (s *Signer) order() []int {
	members := s.root.group.members
	first := int(s.last.Load()) // others who sign may change it
	var working, others []int
	for i := range members {
		at := (first + i) % len(members)
		if members[at].works() {
			working = append(working, at)
		} else {
			others = append(others, at)
		}
	}
	return append(working, others...)
}

// WrongSignatures returns how many signatures of tokens were not those of the key, and
// were not given out. Each is an alarm.
func (r *Root) WrongSignatures() uint64 { return r.wrongSignatures.Load() }
