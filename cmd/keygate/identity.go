package main

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/policy"
)

func newIdentityCommand() *cobra.Command {
	return group("identity", "Make identities, and ask a gateway about them",
		newIdentityNewCommand(), newIdentityOfCommand(), newIdentityInfoCommand(), newIdentityListCommand())
}

func newIdentityOfCommand() *cobra.Command {
	var asJSON *bool
	cmd := &cobra.Command{
		Use:   "of [FILE]",
		Short: "Print the identity of a certificate, a private key or an API key",
		Long: `Print the identity that a gateway knows someone by: the SHA-256 of the public
key. FILE, or standard input, holds a certificate or a private key in PEM form,
or an API key.`,
		Example: `  keygate identity of app.crt
  keygate identity of < api.key`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := identityIn(cmd.InOrStdin(), args)
			if err != nil {
				return err
			}
			v := struct {
				Identity policy.Identity `json:"identity"`
			}{id}
			return printResult(cmd.OutOrStdout(), *asJSON, v, func(w io.Writer) { fmt.Fprintln(w, id) })
		},
	}
	asJSON = jsonFlag(cmd)
	return cmd
}

func identityIn(stdin io.Reader, args []string) (policy.Identity, error) {
	name := strings.Join(args, "")
	if strings.HasPrefix(name, "kes:v1:") {
		return "", errors.New("an API key is a secret: give it on standard input, not as an argument that every user of the machine can see")
	}
	b, err := readInput(stdin, name)
	if err != nil {
		return "", err
	}
	defer clear(b)
	if name == "" {
		name = "standard input"
	}
	id, err := identityOfText(b)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return id, nil
}

// identityOfText returns the identity of the one end certificate, private key
// or API key in b.
func identityOfText(b []byte) (policy.Identity, error) {
	if !bytes.Contains(b, []byte("-----BEGIN ")) {
		key, err := client.ParseAPIKey(string(bytes.TrimSpace(b)))
		if err != nil {
			return "", errors.New("neither PEM nor an API key")
		}
		return key.Identity(), nil
	}
	if bytes.Contains(b, []byte("PRIVATE KEY-----")) {
		key, err := decodePrivateKey(b)
		if err != nil {
			return "", err
		}
		return identityOf(key.Public())
	}
	public, err := endPublicKey(b)
	if err != nil {
		return "", err
	}
	return identityOf(public)
}

// endPublicKey returns the public key of the one certificate that is not a
// CA's, as a gateway chooses it.
func endPublicKey(b []byte) (crypto.PublicKey, error) {
	all, err := parseCertificates(b)
	if err != nil {
		return nil, err
	}
	var end []crypto.PublicKey
	for _, c := range all {
		if !c.IsCA {
			end = append(end, c.PublicKey)
		}
	}
	if len(end) != 1 {
		return nil, fmt.Errorf("%d certificates that are not of an authority, not one", len(end))
	}
	return end[0], nil
}
