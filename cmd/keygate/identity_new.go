package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/policy"
)

// How long certificates live unless --expiry says otherwise.
const (
	defaultExpiry   = 365 * 24 * time.Hour
	defaultCAExpiry = 10 * 365 * 24 * time.Hour
)

// newIdentity holds the flags of identity new.
type newIdentity struct {
	keyFile, certFile string
	apiKeyFile        string
	ecdsa             bool
	commonName        string
	dns               []string
	ips               []net.IP
	expiry            time.Duration
	isCA              bool
	caFile, caKeyFile string
	renew, force      bool
}

// An identityResult is what identity new prints.
type identityResult struct {
	Identity policy.Identity `json:"identity"`
	APIKey   string          `json:"api_key,omitempty"` // secret
	KeyFile  string          `json:"key_file,omitempty"`
	CertFile string          `json:"cert_file,omitempty"`
	Expires  *time.Time      `json:"expires,omitempty"`
}

func newIdentityNewCommand() *cobra.Command {
	var n newIdentity
	cmd := &cobra.Command{
		Use:   "new",
		Short: "Make an API key, or a private key and its certificate",
		Long: `Make an API key, or, with --key and --cert, the files of a private key and a
certificate. No file is replaced unless --force says so.

The certificate is for a client. With --dns or --ip it is for a server, too;
with --is-ca it is an authority's, which can sign others with --ca and --ca-key.`,
		Example: `  keygate identity new
  keygate identity new --key app.key --cert app.crt
  keygate identity new --key app.key --cert app.crt --renew

  keygate identity new --is-ca --cn "my CA" --key ca.key --cert ca.crt
  keygate identity new --ca ca.crt --ca-key ca.key --key server.key --cert server.crt --dns kms.example.net`,
		Args: cobra.NoArgs,
	}
	n.register(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		result, err := n.run(time.Now())
		if err != nil {
			return err
		}
		return printResult(cmd.OutOrStdout(), *asJSON, result, result.text)
	}
	return cmd
}

func (n *newIdentity) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&n.keyFile, "key", "", "write the private key to `FILE`, mode 0600")
	f.StringVar(&n.certFile, "cert", "", "write the certificate to `FILE`")
	f.StringVar(&n.apiKeyFile, "api-key-file", "", "write the API key to `FILE`, mode 0600, in the place of standard output")
	f.BoolVar(&n.ecdsa, "ecdsa", false, "make an ECDSA P-256 key (default Ed25519)")
	f.StringVar(&n.commonName, "cn", "", "common `NAME` of the certificate (default: the identity)")
	f.StringSliceVar(&n.dns, "dns", nil, "DNS `NAME`s of a server")
	f.IPSliceVar(&n.ips, "ip", nil, "IP `ADDRESS`es of a server")
	f.DurationVar(&n.expiry, "expiry", 0, "how long the certificate is valid (default 8760h, a year; an authority's 87600h)")
	f.BoolVar(&n.isCA, "is-ca", false, "make the certificate of an authority")
	f.StringVar(&n.caFile, "ca", "", "sign with the authority of this certificate `FILE` (default: self-signed)")
	f.StringVar(&n.caKeyFile, "ca-key", "", "and its private key `FILE`")
	f.BoolVar(&n.renew, "renew", false, "keep the key that is in --key, and so the identity; replace the certificate")
	f.BoolVar(&n.force, "force", false, "replace files that exist")
	cmd.MarkFlagsRequiredTogether("key", "cert")
	cmd.MarkFlagsRequiredTogether("ca", "ca-key")
	cmd.MarkFlagsMutuallyExclusive("key", "api-key-file")
	cmd.MarkFlagsMutuallyExclusive("is-ca", "ca")
	cmd.MarkFlagsMutuallyExclusive("is-ca", "dns")
	cmd.MarkFlagsMutuallyExclusive("is-ca", "ip")
	cmd.MarkFlagsMutuallyExclusive("renew", "ecdsa")
}

func (n *newIdentity) run(now time.Time) (*identityResult, error) {
	if n.keyFile != "" {
		return n.files(now)
	}
	if n.ecdsa || n.commonName != "" || len(n.dns)+len(n.ips) > 0 || n.expiry != 0 || n.isCA || n.caFile != "" || n.renew {
		return nil, errors.New("an API key has no such settings: give --key and --cert to make a certificate")
	}
	key, err := client.GenerateAPIKey()
	if err != nil {
		return nil, err
	}
	result := &identityResult{Identity: key.Identity()}
	if n.apiKeyFile == "" {
		result.APIKey = key.Reveal()
		return result, nil
	}
	result.KeyFile = n.apiKeyFile
	return result, hintForce(writeFile(n.apiKeyFile, []byte(key.Reveal()+"\n"), 0o600, n.force))
}

// files makes or keeps the key, and makes its certificate.
func (n *newIdentity) files(now time.Time) (*identityResult, error) {
	request, err := n.request()
	if err != nil {
		return nil, err
	}
	if err := n.checkFree(); err != nil {
		return nil, err
	}
	key, err := n.key()
	if err != nil {
		return nil, err
	}
	der, err := newCertificate(request, key, now)
	if err != nil {
		return nil, err
	}
	id, err := identityOf(key.Public())
	if err != nil {
		return nil, err
	}
	if err := n.write(key, der); err != nil {
		return nil, err
	}
	expires := now.Add(request.lifetime).UTC().Truncate(time.Second)
	return &identityResult{Identity: id, KeyFile: n.keyFile, CertFile: n.certFile, Expires: &expires}, nil
}

func (n *newIdentity) request() (certificateRequest, error) {
	r := certificateRequest{commonName: n.commonName, dns: n.dns, ips: n.ips, lifetime: n.expiry, isCA: n.isCA}
	switch {
	case r.lifetime < 0:
		return r, errors.New("--expiry is negative")
	case r.lifetime == 0 && n.isCA:
		r.lifetime = defaultCAExpiry
	case r.lifetime == 0:
		r.lifetime = defaultExpiry
	}
	if n.caFile == "" {
		return r, nil
	}
	certificates, err := readCertificates(n.caFile)
	if err != nil {
		return r, err
	}
	key, err := readPrivateKey(n.caKeyFile)
	if err != nil {
		return r, err
	}
	r.issuer = &issuer{certificate: certificates[0], key: key}
	return r, nil
}

// checkFree finds a file in the way before anything is made.
func (n *newIdentity) checkFree() error {
	if n.force {
		return nil
	}
	for _, name := range []string{n.keyFile, n.certFile} {
		if n.renew {
			continue
		}
		if _, err := os.Lstat(name); err == nil {
			return hintForce(fmt.Errorf("%s: %w", name, fs.ErrExist))
		}
	}
	return nil
}

func hintForce(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w (--force replaces it)", err)
	}
	return err
}

func (n *newIdentity) key() (crypto.Signer, error) {
	if n.renew {
		return readPrivateKey(n.keyFile)
	}
	return newPrivateKey(n.ecdsa)
}

// write puts the key in place before the certificate, so that there is never a
// certificate whose key is lost.
func (n *newIdentity) write(key crypto.Signer, der []byte) error {
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if n.renew {
		return writeFile(n.certFile, certificate, 0o644, true)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	defer clear(pkcs8)
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	defer clear(private)
	if err := writeFile(n.keyFile, private, 0o600, n.force); err != nil {
		return hintForce(err)
	}
	err = writeFile(n.certFile, certificate, 0o644, n.force)
	if err != nil && !n.force {
		os.Remove(n.keyFile) // the one that this call made, of no use without its certificate
	}
	return hintForce(err)
}

func (r *identityResult) text(w io.Writer) {
	if r.APIKey != "" {
		fmt.Fprintf(w, "api key:\t%s\n", r.APIKey)
	}
	if r.KeyFile != "" {
		fmt.Fprintf(w, "key:\t%s\n", r.KeyFile)
	}
	if r.CertFile != "" {
		fmt.Fprintf(w, "certificate:\t%s\n", r.CertFile)
	}
	fmt.Fprintf(w, "identity:\t%s\n", r.Identity)
	if r.Expires != nil {
		fmt.Fprintf(w, "expires:\t%s\n", r.Expires.Format(time.RFC3339))
	}
}
