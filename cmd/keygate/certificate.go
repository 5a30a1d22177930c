package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/keygate/keygate/policy"
)

// A certificateRequest says what certificate newCertificate makes.
type certificateRequest struct {
	commonName string // empty: the identity
	dns        []string
	ips        []net.IP
	lifetime   time.Duration
	isCA       bool
	issuer     *issuer // nil: self-signed
}

// An issuer is a CA that signs the certificates of others.
type issuer struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

func newPrivateKey(ecdsaP256 bool) (crypto.Signer, error) {
	if ecdsaP256 {
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return key, err
}

// newCertificate makes a certificate for the public half of key, in DER.
func newCertificate(r certificateRequest, key crypto.Signer, now time.Time) ([]byte, error) {
	identity, err := identityOf(key.Public())
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)), // RFC 5280 4.1.2.2: not zero
		Subject:               pkix.Name{CommonName: r.commonName},
		NotBefore:             now.Add(-time.Minute), // clocks differ
		NotAfter:              now.Add(r.lifetime),
		DNSNames:              r.dns,
		IPAddresses:           r.ips,
		BasicConstraintsValid: true,
	}
	if r.commonName == "" {
		template.Subject.CommonName = string(identity)
	}
	r.usage(template)
	return r.sign(template, key)
}

// usage limits what the certificate is good for (RFC 5280 4.2.1.3, 4.2.1.12).
// One with the names of a server is good for both sides, as those of KES are.
func (r certificateRequest) usage(template *x509.Certificate) {
	if r.isCA {
		template.IsCA = true
		template.MaxPathLenZero = true
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		return
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(r.dns)+len(r.ips) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
}

func (r certificateRequest) sign(template *x509.Certificate, key crypto.Signer) ([]byte, error) {
	if r.issuer == nil {
		return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	}
	ca := r.issuer.certificate
	if !ca.IsCA || ca.KeyUsage != 0 && ca.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("the certificate of --ca may not sign certificates")
	}
	if template.NotAfter.After(ca.NotAfter) {
		return nil, fmt.Errorf("the certificate would outlive that of --ca, which ends on %s: give a shorter --expiry", ca.NotAfter.UTC().Format(time.DateOnly))
	}
	return x509.CreateCertificate(rand.Reader, template, ca, key.Public(), r.issuer.key)
}

// identityOf returns the identity that a gateway knows the holder of a key by.
func identityOf(public crypto.PublicKey) (policy.Identity, error) {
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	return policy.IdentityOf(spki), nil
}
