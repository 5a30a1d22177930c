package main

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// checkTLS reads the files of the tls section.
func (c *configuration) checkTLS(y *yamlFile) {
	if c.TLS.Key == "" {
		y.failAt(at("tls", "key"), "tls.key, the file of the server's private key or its name in the token, is missing")
	}
	if c.TLS.Cert == "" {
		y.failAt(at("tls", "cert"), "tls.cert, the file of the server's certificate, is missing")
	}
	if c.TLS.Key != "" && c.TLS.Cert != "" {
		field, err := c.loadServerKey()
		if err != nil {
			y.failAt(at("tls", field), "tls.%s: %v", field, err)
		}
	}
	if slices.ContainsFunc(c.TLS.Proxy.Identities, func(id string) bool { return id != "" }) {
		y.failAt(at("tls", "proxy"), "tls.proxy.identities is not supported: a proxy has to pass TLS connections on as they are")
	}
	switch c.TLS.Auth {
	case "", "off", "false":
	case "on", "true":
		cas, err := loadAuthorities(c.TLS.CA)
		if err != nil {
			y.failAt(at("tls", "ca"), "tls.ca: %v", err)
		}
		c.state.ClientCAs = cas
	default:
		y.failAt(at("tls", "auth"), "tls.auth is neither on nor off")
	}
}

// loadServerKey reads the certificate and the private key of the server. With an
// error it says which key of the section is to blame.
func (c *configuration) loadServerKey() (field string, err error) {
	chain, err := readChain(c.TLS.Cert)
	if err != nil {
		return "cert", err
	}
	leaf := chain[0]
	var key crypto.Signer // stays nil for one in the token
	if c.keyInToken() {
		err = c.checkTokenKey()
	} else if key, err = readServerKey(c.TLS.Key, c.TLS.Password); err == nil {
		err = c.checkServerKey(leaf, key)
	}
	if err != nil {
		return "key", err
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.URIs)+len(leaf.EmailAddresses) == 0 {
		return "cert", fmt.Errorf("%s: the certificate has no subject alternative name, so that no client accepts it", c.TLS.Cert)
	}
	c.state.Certificate = tls.Certificate{Leaf: leaf}
	if key != nil {
		c.state.Certificate.PrivateKey = key
	}
	for _, cert := range chain {
		c.state.Certificate.Certificate = append(c.state.Certificate.Certificate, cert.Raw)
	}
	return "", nil
}

// checkServerKey returns an error if key is not that of the server's certificate.
func (c *configuration) checkServerKey(leaf *x509.Certificate, key crypto.Signer) error {
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return fmt.Errorf("%s does not belong to the certificate of %s", c.TLS.Key, c.TLS.Cert)
	}
	return nil
}

// readChain reads a file of certificates, and of nothing else.
func readChain(name string) ([]*x509.Certificate, error) {
	b, err := readFile(name)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			clear(block.Bytes)
			return nil, fmt.Errorf("%s: unexpected PEM block %q", name, block.Type)
		}
	}
	chain, err := parseCertificates(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return chain, nil
}

func readServerKey(name string, password secret) (crypto.Signer, error) {
	b, err := readFile(name)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	block, _ := pem.Decode(b)
	if block == nil || block.Headers["DEK-Info"] == "" {
		key, err := decodePrivateKey(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return key, nil
	}
	defer clear(block.Bytes)
	if password == "" {
		return nil, fmt.Errorf("%s: the private key is encrypted, and tls.password is missing", name)
	}
	key, err := decryptPrivateKey(block, password)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return key, nil
}

// decryptPrivateKey opens a PEM block that is encrypted as in RFC 1421. The way
// is weak and old, but files of KES can have it.
func decryptPrivateKey(block *pem.Block, password secret) (crypto.Signer, error) {
	//lint:ignore SA1019 there is no other way to read these files
	der, err := x509.DecryptPEMBlock(block, []byte(password))
	if err != nil {
		return nil, errors.New("tls.password does not decrypt the private key")
	}
	defer clear(der)
	return parsePrivateKey(&pem.Block{Type: block.Type, Bytes: der})
}

// loadAuthorities returns the certificates of a file, or of all files of a
// directory; those of the system where there is no name.
func loadAuthorities(name string) (*x509.CertPool, error) {
	if name == "" {
		return x509.SystemCertPool()
	}
	files := []string{name}
	if info, err := os.Stat(name); err != nil {
		return nil, err
	} else if info.IsDir() {
		if files, err = filesOf(name); err != nil {
			return nil, err
		}
	}
	pool := x509.NewCertPool()
	for _, file := range files {
		chain, err := readChain(file)
		if err != nil {
			return nil, err
		}
		for _, cert := range chain {
			pool.AddCert(cert)
		}
	}
	return pool, nil
}

func filesOf(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if name := filepath.Join(dir, e.Name()); !e.IsDir() {
			files = append(files, name)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no file in it", dir)
	}
	return files, nil
}
