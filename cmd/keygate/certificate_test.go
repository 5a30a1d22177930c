package main

import (
	"crypto/x509"
	"net"
	"slices"
	"testing"
	"time"
)

func makeCertificate(t *testing.T, r certificateRequest, ecdsa bool) (*x509.Certificate, *issuer) {
	t.Helper()
	key, err := newPrivateKey(ecdsa)
	if err != nil {
		t.Fatal(err)
	}
	der, err := newCertificate(r, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, &issuer{certificate: c, key: key}
}

func TestCertificateUsage(t *testing.T) {
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	both := append(slices.Clone(client), x509.ExtKeyUsageServerAuth)
	for name, test := range map[string]struct {
		request certificateRequest
		key     x509.KeyUsage
		ext     []x509.ExtKeyUsage
	}{
		"client":              {certificateRequest{}, x509.KeyUsageDigitalSignature, client},
		"server by name":      {certificateRequest{dns: []string{"localhost"}}, x509.KeyUsageDigitalSignature, both},
		"server by address":   {certificateRequest{ips: []net.IP{net.IPv6loopback}}, x509.KeyUsageDigitalSignature, both},
		"authority, not leaf": {certificateRequest{isCA: true}, x509.KeyUsageCertSign | x509.KeyUsageCRLSign, nil},
	} {
		for _, ecdsa := range []bool{false, true} {
			test.request.lifetime = time.Hour
			c, _ := makeCertificate(t, test.request, ecdsa)
			if c.KeyUsage != test.key || !slices.Equal(c.ExtKeyUsage, test.ext) {
				t.Errorf("%s: usage %b, extended %v", name, c.KeyUsage, c.ExtKeyUsage)
			}
			if c.IsCA != test.request.isCA || !c.BasicConstraintsValid {
				t.Errorf("%s: CA is %t", name, c.IsCA)
			}
			if id, err := identityOf(c.PublicKey); err != nil || c.Subject.CommonName != string(id) {
				t.Errorf("%s: common name %q, want the identity %q (%v)", name, c.Subject.CommonName, id, err)
			}
		}
	}
}

func TestCertificateChain(t *testing.T) {
	ca, authority := makeCertificate(t, certificateRequest{commonName: "CA", isCA: true, lifetime: 2 * time.Hour}, false)
	c, _ := makeCertificate(t, certificateRequest{dns: []string{"localhost"}, lifetime: time.Hour, issuer: authority}, true)
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := c.Verify(x509.VerifyOptions{Roots: roots, DNSName: "localhost", KeyUsages: []x509.ExtKeyUsage{usage}})
		if err != nil {
			t.Errorf("usage %v: %v", usage, err)
		}
	}
	// The authority may sign leaves only.
	_, below := makeCertificate(t, certificateRequest{isCA: true, lifetime: time.Hour - time.Minute, issuer: authority}, false)
	leaf, _ := makeCertificate(t, certificateRequest{lifetime: time.Minute, issuer: below}, false)
	between := x509.NewCertPool()
	between.AddCert(below.certificate)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("a leaf below a second authority was verified")
	}
}
