package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"

	"github.com/keygate/keygate/policy"
)

// newIdentities returns n self-signed client certificates.
func newIdentities(n int) (certificates []tls.Certificate, identities []policy.Identity, err error) {
	for range n {
		c, err := newIdentity()
		if err != nil {
			return nil, nil, err
		}
		certificates, identities = append(certificates, c), append(identities, identityOf(c))
	}
	return certificates, identities, nil
}

func newIdentity() (tls.Certificate, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}, err
}

// randomIdentity returns the identity of nobody.
func randomIdentity() policy.Identity {
	b := make([]byte, 32)
	rand.Read(b)
	return policy.IdentityOf(b)
}
