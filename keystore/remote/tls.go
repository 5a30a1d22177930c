package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLS names the files of a connection under TLS. The server is always verified:
// its certificate, its name and its validity.
type TLS struct {
	// CA is a PEM file of the authorities of the servers' certificates. Empty
	// means those of the system.
	CA string `yaml:"ca"`
	// Cert and Key are PEM files of the gateway's own certificate, read at each
	// handshake, so that they can be renewed. Both or neither.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// ServerName is the name in the servers' certificates. Empty means the host
	// that is connected to.
	ServerName string `yaml:"server_name"`
}

// Check returns what is wrong with t, as "tls.field: text", without opening files.
func (t TLS) Check() error {
	if (t.Cert == "") != (t.Key == "") {
		return errors.New("tls.cert: cert and key need each other")
	}
	return nil
}

// Config reads the files. host is the server's name where t has none.
func (t TLS) Config(host string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if t.ServerName != "" {
		cfg.ServerName = t.ServerName
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls.ca: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca: %s holds no certificate", t.CA)
		}
	}
	if t.Cert != "" {
		if _, err := t.pair(); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.pair() }
	}
	return cfg, nil
}

func (t TLS) pair() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("tls.cert: %w", err)
	}
	return &pair, nil
}
