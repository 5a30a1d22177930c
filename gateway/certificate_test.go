package gateway_test

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/keygate/keygate/policy"
)

// An authority issues certificates.
type authority struct{ tls.Certificate }

func newAuthority(t testing.TB, name string) *authority {
	return &authority{newCertificate(t, func(c *x509.Certificate) {
		c.Subject.CommonName = name
		c.IsCA, c.KeyUsage, c.ExtKeyUsage = true, x509.KeyUsageCertSign, nil
	})}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Leaf)
	return pool
}

// issue returns a certificate with a new key.
func (a *authority) issue(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	return a.certify(t, key, change)
}

// asServer makes a certificate one of a server on this machine.
func asServer(c *x509.Certificate) {
	c.IPAddresses, c.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
}

// certify returns a certificate for a key.
func (a *authority) certify(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) tls.Certificate {
	return makeCertificate(t, key, a.Leaf, a.PrivateKey, change)
}

// newCertificate returns a self-signed certificate with a new key: of a client,
// unless change makes it another.
func newCertificate(t testing.TB, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	ok(t, err)
	return makeCertificate(t, key, nil, key, change)
}

func makeCertificate(t testing.TB, key crypto.Signer, parent *x509.Certificate, parentKey crypto.PrivateKey, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	ok(t, err)
	template := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: pkix.Name{CommonName: "client"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if change != nil {
		change(template)
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	ok(t, err)
	leaf, err := x509.ParseCertificate(der)
	ok(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func identity(c tls.Certificate) policy.Identity {
	return policy.IdentityOf(c.Leaf.RawSubjectPublicKeyInfo)
}

// with returns a certificate that is sent with others behind it.
func with(c tls.Certificate, others ...tls.Certificate) tls.Certificate {
	chain := [][]byte{c.Certificate[0]}
	for _, o := range others {
		chain = append(chain, o.Certificate[0])
	}
	return tls.Certificate{Certificate: chain, PrivateKey: c.PrivateKey, Leaf: c.Leaf}
}
