package hsm

import (
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
// op, so it takes no longer than Config.Timeout, waits in the queue of the token's
// calls, and is gone for if the module hangs.
//
// The public key is read once. Each signature is verified against it before it is
// given out: after the module was initialised anew or the token was replaced, a label
// or a handle may stand for another key.
type Signer struct {
	root   *Root
	name   KeyName
	public crypto.PublicKey
	last   atomic.Int64 // the member of the group that has the key, as far as is known
}

var _ crypto.Signer = (*Signer)(nil)

// errWrongSignature says that what the token answered is no signature by the key.
var errWrongSignature = fmt.Errorf("hsm: the token's signature is not that of the key: %w", kms.ErrUnavailable)

// Signer returns the private key that name means: ECDSA on P-256 or P-384, or RSA of
// 2048 bits or more, that cannot leave the token, together with its public key. Of
// several tokens it is in at least one. The root has to have been opened with
// Config.Signs or a SigningKey. ErrNoKey is returned if there is no such key.
func (r *Root) Signer(ctx context.Context, name KeyName) (*Signer, error) {
	s := &Signer{root: r, name: name}
	request, err := json.Marshal(name)
	if err != nil {
		return nil, err
	}
	der, err := s.ask(ctx, &op{kind: opPublicKey, b: request}, nil)
	if err != nil {
		return nil, err
	}
	if s.public, err = x509.ParsePKIXPublicKey(der); err != nil {
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
	return s.ask(context.Background(), &op{kind: opSign, a: digest, b: request}, func(answer []byte) error {
		if !q.verifies(s.public, digest, answer) {
			s.root.wrongSignatures.Add(1)
			s.root.group.log.Error("hsm: a token's signature is not that of the key: it was not given out", "key", s.name.String())
			return errWrongSignature
		}
		return nil
	})
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

// ask does o in the token that had the key last, and then in the others, those that
// work first, until check, if it is not nil, takes an answer.
func (s *Signer) ask(ctx context.Context, o *op, check func([]byte) error) ([]byte, error) {
	members := s.root.group.members
	var errs []error
	for _, working := range []bool{true, false} {
		for i := range members {
			at := (int(s.last.Load()) + i) % len(members)
			m := members[at]
			if m.works() != working {
				continue
			}
			answer, err := m.do(ctx, o)
			if err == nil && check != nil {
				err = check(answer)
			}
			if err == nil {
				s.last.Store(int64(at))
				return answer, nil
			}
			errs = append(errs, err)
		}
	}
	return nil, errors.Join(errs...)
}

// WrongSignatures returns how many signatures of tokens were not those of the key, and
// were not given out. Each is an alarm.
func (r *Root) WrongSignatures() uint64 { return r.wrongSignatures.Load() }
