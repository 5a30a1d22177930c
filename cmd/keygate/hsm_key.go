package main

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/hsm"
)

// A tokenKey is a command that uses one private key of the token of a configuration.
type tokenKey struct {
	config *string
	uri    string
}

func (k *tokenKey) flags(cmd *cobra.Command) {
	k.config = configFlag(cmd)
	cmd.Flags().StringVar(&k.uri, "key", "", "`URI` of the private key in the token, as pkcs11:object=LABEL (default: root.pkcs11.signing_key, or keygate-sign)")
}

// use runs fn with the key.
func (k *tokenKey) use(cmd *cobra.Command, fn func(crypto.Signer) error) error {
	if err := harden(); err != nil {
		return err
	}
	cfg, err := loadToken(*k.config)
	if err != nil {
		return err
	}
	var name hsm.KeyName
	if k.uri != "" {
		if name, err = hsm.ParseKeyName(k.uri); err != nil {
			return err
		}
	}
	return hsm.UseKey(cmd.Context(), cfg, name, fn)
}

func newHSMPublicKeyCommand() *cobra.Command {
	var k tokenKey
	cmd := &cobra.Command{
		Use:   "public-key --config FILE",
		Short: "Print the public key of a private key in a token",
		Long: `Print the public key of a private key in the token of a configuration, in PEM: that
of the signing key, by which checkpoints of the audit log and attestations are
verified, or of another one that --key names.`,
		Args: cobra.NoArgs,
	}
	k.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return k.use(cmd, func(key crypto.Signer) error {
			der, err := x509.MarshalPKIXPublicKey(key.Public())
			if err != nil {
				return err
			}
			return pem.Encode(cmd.OutOrStdout(), &pem.Block{Type: "PUBLIC KEY", Bytes: der})
		})
	}
	return cmd
}

func newHSMRequestCommand() *cobra.Command {
	var k tokenKey
	var name string
	var dns []string
	var ips []net.IP
	cmd := &cobra.Command{
		Use:   "csr --config FILE --key URI",
		Short: "Print a certificate request for a private key in a token",
		Long: `Print a certificate request (PKCS #10, PEM) that a private key in the token of a
configuration has signed, for an authority to make the server's certificate of, where
tls.key names that key.`,
		Args: cobra.NoArgs,
	}
	k.flags(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("key")) // fails only for a flag that does not exist
	cmd.Flags().StringVar(&name, "name", "", "common `NAME` of the certificate's subject")
	cmd.Flags().StringSliceVar(&dns, "dns", nil, "host `NAME`[,...] that the certificate is for")
	cmd.Flags().IPSliceVar(&ips, "ip", nil, "`ADDRESS`[,...] that the certificate is for")
	cmd.MarkFlagsOneRequired("dns", "ip")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return k.use(cmd, func(key crypto.Signer) error {
			template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, DNSNames: dns, IPAddresses: ips}
			der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
			if err != nil {
				return err
			}
			return pem.Encode(cmd.OutOrStdout(), &pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		})
	}
	return cmd
}

// readPublicKey returns the public key of a PEM file: a public key, or a certificate.
func readPublicKey(name string) (crypto.PublicKey, error) {
	b, err := readFile(name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	switch {
	case block != nil && block.Type == "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case block != nil && block.Type == "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return c.PublicKey, nil
	}
	return nil, errors.New(name + ": no public key in PEM form")
}

func readPublicKeys(names []string) ([]crypto.PublicKey, error) {
	var keys []crypto.PublicKey
	for _, name := range names {
		key, err := readPublicKey(name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}
