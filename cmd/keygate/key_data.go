package main

import (
	"encoding/base64"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/client"
)

// A contextFlag holds the flags of the context that a ciphertext is bound to.
type contextFlag struct{ text, file string }

func (c *contextFlag) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.text, "context", "", "`TEXT` that the ciphertext is bound to")
	cmd.Flags().StringVar(&c.file, "context-file", "", "`FILE` of what the ciphertext is bound to")
	cmd.MarkFlagsMutuallyExclusive("context", "context-file")
}

func (c *contextFlag) bytes() ([]byte, error) {
	if c.file != "" {
		return readFile(c.file)
	}
	return []byte(c.text), nil
}

func newKeyDEKCommand() *cobra.Command {
	var binding contextFlag
	cmd := remote(&cobra.Command{
		Use:   "dek NAME",
		Short: "Generate a data key",
		Long:  `Generate a data key: print its plaintext, which is secret, and its ciphertext.`,
		Args:  cobra.ExactArgs(1),
	}, (*client.Client).ListKeys, func(s *session, args []string) error {
		ad, err := binding.bytes()
		if err != nil {
			return err
		}
		plaintext, ciphertext, err := s.client.GenerateKey(s.ctx, args[0], ad)
		if err != nil {
			return fmt.Errorf("key %q: %w", args[0], err)
		}
		defer clear(plaintext)
		return s.print(api.GenerateKeyResponse{Plaintext: plaintext, Ciphertext: ciphertext}, func(w io.Writer) {
			fmt.Fprintf(w, "plaintext:\t%s\n", encode(plaintext))
			fmt.Fprintf(w, "ciphertext:\t%s\n", encode(ciphertext))
		})
	})
	binding.register(cmd)
	return cmd
}

func newKeyEncryptCommand() *cobra.Command {
	var binding contextFlag
	cmd := remote(&cobra.Command{
		Use:     "encrypt NAME [FILE]",
		Short:   "Encrypt a small file or standard input",
		Example: `  keygate key encrypt app-1 password.txt > password.enc`,
		Args:    cobra.RangeArgs(1, 2),
	}, (*client.Client).ListKeys, func(s *session, args []string) error {
		ad, err := binding.bytes()
		if err != nil {
			return err
		}
		plaintext, err := s.secret(args[1:], "plaintext")
		if err != nil {
			return err
		}
		defer clear(plaintext)
		ciphertext, err := s.client.Encrypt(s.ctx, args[0], plaintext, ad)
		if err != nil {
			return fmt.Errorf("key %q: %w", args[0], err)
		}
		return s.print(api.EncryptResponse{Ciphertext: ciphertext}, func(w io.Writer) { fmt.Fprintln(w, encode(ciphertext)) })
	})
	binding.register(cmd)
	return cmd
}

func newKeyDecryptCommand() *cobra.Command {
	var binding contextFlag
	cmd := remote(&cobra.Command{
		Use:     "decrypt NAME [CIPHERTEXT]",
		Short:   "Decrypt a ciphertext",
		Long:    `Decrypt a ciphertext in base64, the argument or standard input, and write the plaintext as it is.`,
		Example: `  keygate key decrypt app-1 < password.enc`,
		Args:    cobra.RangeArgs(1, 2),
	}, (*client.Client).ListKeys, func(s *session, args []string) error {
		ad, err := binding.bytes()
		if err != nil {
			return err
		}
		ciphertext, err := s.ciphertext(args[1:])
		if err != nil {
			return err
		}
		plaintext, err := s.client.Decrypt(s.ctx, args[0], ciphertext, ad)
		if err != nil {
			return fmt.Errorf("key %q: %w", args[0], err)
		}
		defer clear(plaintext)
		if s.json {
			return s.print(api.DecryptResponse{Plaintext: plaintext}, nil)
		}
		return writePlaintext(s.out, plaintext)
	})
	binding.register(cmd)
	return cmd
}

func newKeyHMACCommand() *cobra.Command {
	return remote(&cobra.Command{
		Use:   "hmac NAME [FILE]",
		Short: "Compute the HMAC-SHA-256 of a file or standard input",
		Args:  cobra.RangeArgs(1, 2),
	}, (*client.Client).ListKeys, func(s *session, args []string) error {
		message, err := s.secret(args[1:], "message")
		if err != nil {
			return err
		}
		defer clear(message)
		mac, err := s.client.HMAC(s.ctx, args[0], message)
		if err != nil {
			return fmt.Errorf("key %q: %w", args[0], err)
		}
		return s.print(api.HMACResponse{HMAC: mac}, func(w io.Writer) { fmt.Fprintln(w, encode(mac)) })
	})
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
