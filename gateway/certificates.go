package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Load reads the files of the section: the server's certificate, and the
// authorities of client certificates, which are nil if Auth is off.
func (c TLSConfig) Load() (tls.Certificate, *x509.CertPool, error) {
	certificate, err := c.loadCertificate()
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	switch c.Auth {
	case "", "off":
		return certificate, nil, nil
	case "on":
		pool, err := loadCAs(c.CA)
		return certificate, pool, err
	}
	return tls.Certificate{}, nil, fmt.Errorf(`gateway: tls: auth is %q, neither "on" nor "off"`, c.Auth)
}

func (c TLSConfig) loadCertificate() (tls.Certificate, error) {
	if c.Key == "" || c.Cert == "" {
		return tls.Certificate{}, errors.New("gateway: tls: key and cert are required")
	}
	cert, err := os.ReadFile(c.Cert)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("gateway: tls: cert: %w", err)
	}
	key, err := os.ReadFile(c.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("gateway: tls: key: %w", err)
	}
	defer func() { clear(key) }()
	if c.Password != "" {
		if key, err = decryptPEM(key, c.Password); err != nil {
			return tls.Certificate{}, fmt.Errorf("gateway: tls: key: %s: %w", c.Key, err)
		}
	}
	certificate, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("gateway: tls: %s and %s: %w", c.Cert, c.Key, err)
	}
	if leaf := certificate.Leaf; len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
		return tls.Certificate{}, fmt.Errorf("gateway: tls: cert: %s names no host: clients need a DNS name or an IP address in its subject alternative names", c.Cert)
	}
	return certificate, nil
}

// decryptPEM decrypts a key in the old PEM encryption, which KES has, and wipes
// the encrypted form's buffer.
func decryptPEM(key []byte, password string) ([]byte, error) {
	defer clear(key)
	block, _ := pem.Decode(key)
	//lint:ignore SA1019 it protects the file no worse than no encryption, and KES's files have it
	if block == nil || !x509.IsEncryptedPEMBlock(block) {
		return nil, errors.New("there is a tls.password, but the key is not encrypted in the way of RFC 1421")
	}
	//lint:ignore SA1019 as above
	der, err := x509.DecryptPEMBlock(block, []byte(password))
	if err != nil {
		return nil, errors.New("the key cannot be decrypted with tls.password")
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: der}), nil
}

// loadCAs reads the certificates of a file, or of all files of a directory, or
// the system's if path is empty.
func loadCAs(path string) (*x509.CertPool, error) {
	if path == "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("gateway: tls: ca: %w", err)
		}
		return pool, nil
	}
	files := []string{path}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if files, err = filepath.Glob(filepath.Join(path, "*")); err != nil || len(files) == 0 {
			return nil, fmt.Errorf("gateway: tls: ca: no file in %s", path)
		}
	}
	pool := x509.NewCertPool()
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("gateway: tls: ca: %w", err)
		}
		if !pool.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("gateway: tls: ca: %s holds no certificate", file)
		}
	}
	return pool, nil
}
