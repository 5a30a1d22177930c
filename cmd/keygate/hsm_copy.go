package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/hsm"
)

func newHSMCopyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "copy --config FROM --to TO --so-pin-file FILE",
		Short: "Copy the root keys to another token",
		Long: `Copy the KEK and the record key of the token of the configuration FROM to that of
TO, of any maker, which has neither yet. It is for keys that "keygate hsm init
--copyable" made: others can never leave their token, and are cloned or backed up
in the way of its maker (docs/operations.md). Both configurations name one token, and
have root.pkcs11.copyable: allowed.

The security officer of the first token lets them leave, wrapped by a key of the
second, whose fingerprint both print. The check values of the keys that arrived were
compared with those of the first token; "keygate hsm doctor" prints them, too.`,
		Args: cobra.NoArgs,
	}
	from := configFlag(cmd)
	to := cmd.Flags().String("to", "", "configuration `FILE` of the token that gets the keys")
	officer := cmd.Flags().String("so-pin-file", "", "`FILE` of the PIN of the security officer of the token that has them")
	for _, name := range []string{"to", "so-pin-file"} {
		cobra.CheckErr(cmd.MarkFlagRequired(name))
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		source, err := loadToken(*from)
		if err != nil {
			return err
		}
		destination, err := loadToken(*to)
		if err != nil {
			return err
		}
		copied, err := hsm.CopyRootKeys(cmd.Context(), source, destination, hsm.PIN{File: *officer})
		if err != nil {
			return err
		}
		return printResult(cmd.OutOrStdout(), *asJSON, copied, func(w io.Writer) { describeCopied(w, copied) })
	}
	return cmd
}

func describeCopied(w io.Writer, c hsm.Copied) {
	for _, side := range []struct {
		name, fingerprint string
		token             hsm.TokenInfo
	}{{"from", c.FromFingerprint, c.From}, {"to", c.ToFingerprint, c.To}} {
		fmt.Fprintf(w, "%s:\t%s, serial number %s\ntransfer key there:\tSHA-256 %s\n", side.name, side.token.Label, side.token.Serial, side.fingerprint)
	}
	fmt.Fprintf(w, "wrapped by:\tRSA-OAEP with %s\nkek check value:\t%s\nrecord key check value:\t%s\n", c.Hash, c.KEK, c.RecordKey)
}
