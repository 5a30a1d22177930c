package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/client"
)

// The environment of the client commands. The first variable that is set and
// not empty counts; after our own come those of KES and MinIO.
var (
	envServer     = []string{"KEYGATE_SERVER", "MINIO_KES_SERVER", "KES_SERVER", "MINIO_KMS_KES_ENDPOINT"}
	envAPIKey     = []string{"KEYGATE_API_KEY", "MINIO_KES_API_KEY", "KES_API_KEY", "MINIO_KMS_KES_API_KEY"}
	envClientKey  = []string{"KEYGATE_CLIENT_KEY", "MINIO_KES_KEY_FILE", "KES_CLIENT_KEY", "MINIO_KES_CLIENT_KEY", "MINIO_KMS_KES_KEY_FILE"}
	envClientCert = []string{"KEYGATE_CLIENT_CERT", "MINIO_KES_CERT_FILE", "KES_CLIENT_CERT", "MINIO_KES_CLIENT_CERT", "MINIO_KMS_KES_CERT_FILE"}
	envCACert     = []string{"KEYGATE_CACERT", "MINIO_KMS_KES_CAPATH"}
)

const defaultServer = "127.0.0.1:" + client.DefaultPort

func firstEnv(names []string) string {
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return ""
}

// A connection holds the flags that say which gateway to call, and as whom.
// What no flag says, the environment does.
type connection struct {
	server     []string
	caCert     string
	clientKey  string
	clientCert string
	apiKeyFile string
	insecure   bool
}

func (c *connection) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVarP(&c.server, "server", "s", nil, "gateways, as `HOST[:PORT]`[,...] (KEYGATE_SERVER; default "+defaultServer+")")
	f.StringVar(&c.caCert, "cacert", "", "PEM `FILE` of the authorities that signed the gateway's certificate (KEYGATE_CACERT; default: the system's)")
	f.StringVar(&c.clientCert, "client-cert", "", "PEM `FILE` of the client certificate (KEYGATE_CLIENT_CERT)")
	f.StringVar(&c.clientKey, "client-key", "", "PEM `FILE` of its private key (KEYGATE_CLIENT_KEY)")
	f.StringVar(&c.apiKeyFile, "api-key-file", "", "`FILE` that holds an API key, in the place of a certificate (or the key itself in KEYGATE_API_KEY)")
	f.BoolVarP(&c.insecure, "insecure", "k", false, "accept any server certificate: whoever answers sees all that is sent; for tests only")
	for _, name := range []string{"cacert", "client-cert", "client-key", "api-key-file"} {
		cobra.CheckErr(cmd.MarkFlagFilename(name)) // fails only for a flag that does not exist
	}
	cmd.MarkFlagsMutuallyExclusive("api-key-file", "client-cert")
	cmd.MarkFlagsMutuallyExclusive("api-key-file", "client-key")
	cmd.MarkFlagsRequiredTogether("client-cert", "client-key")
}

// open makes a client. It does not connect yet.
func (c *connection) open() (*client.Client, error) {
	cfg := client.Config{Endpoints: c.endpoints(), InsecureSkipVerify: c.insecure}
	if err := c.identify(&cfg); err != nil {
		return nil, err
	}
	if err := c.trust(&cfg); err != nil {
		return nil, err
	}
	return client.New(cfg)
}

func (c *connection) endpoints() []string {
	if len(c.server) > 0 {
		return c.server
	}
	if v := firstEnv(envServer); v != "" {
		return strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
	}
	return []string{defaultServer}
}

// identify finds the identity to call as: that of the flags, or of the
// environment, where an API key comes before a certificate, as in KES.
func (c *connection) identify(cfg *client.Config) error {
	switch {
	case c.apiKeyFile != "":
		return useAPIKeyFile(cfg, c.apiKeyFile)
	case c.clientCert != "":
		return useCertificate(cfg, c.clientCert, c.clientKey)
	}
	if v := firstEnv(envAPIKey); v != "" {
		return useAPIKey(cfg, v)
	}
	cert, key := firstEnv(envClientCert), firstEnv(envClientKey)
	if cert == "" || key == "" {
		return errors.New("no identity to call as: give --client-cert and --client-key, or --api-key-file, or set KEYGATE_CLIENT_CERT and KEYGATE_CLIENT_KEY, or KEYGATE_API_KEY")
	}
	return useCertificate(cfg, cert, key)
}

func useAPIKeyFile(cfg *client.Config, name string) error {
	b, err := readFile(name)
	if err != nil {
		return err
	}
	defer clear(b)
	if err := useAPIKey(cfg, string(b)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func useAPIKey(cfg *client.Config, s string) error {
	key, err := client.ParseAPIKey(strings.TrimSpace(s))
	if err != nil {
		return err
	}
	cfg.GetCertificate = key.Certificate
	return nil
}

func useCertificate(cfg *client.Config, certFile, keyFile string) error {
	chain, err := readCertificates(certFile)
	if err != nil {
		return err
	}
	key, err := readPrivateKey(keyFile)
	if err != nil {
		return err
	}
	of, err := identityOf(key.Public())
	if err != nil {
		return err
	}
	if leaf, err := identityOf(chain[0].PublicKey); err != nil || leaf != of {
		return fmt.Errorf("%s does not belong to the certificate of %s", keyFile, certFile)
	}
	cfg.Certificate = tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		cfg.Certificate.Certificate = append(cfg.Certificate.Certificate, c.Raw)
	}
	return nil
}

func (c *connection) trust(cfg *client.Config) error {
	name := c.caCert
	if name == "" {
		name = firstEnv(envCACert)
	}
	if name == "" {
		return nil
	}
	roots, err := readCertificates(name)
	if err != nil {
		return err
	}
	cfg.RootCAs = x509.NewCertPool()
	for _, root := range roots {
		cfg.RootCAs.AddCert(root)
	}
	return nil
}
