package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/audit"
)

func newAuditCommand() *cobra.Command {
	return group("audit", "Verify audit logs", newAuditVerifyCommand())
}

func newAuditVerifyCommand() *cobra.Command {
	var keys []string
	cmd := &cobra.Command{
		Use:   "verify --key PUB FILE...",
		Short: "Say whether an audit log is as it was written and signed",
		Long: `Say whether the lines of an audit log are those that were written, in their order
and none of them missing, by the checkpoints that a key in the token has signed
(audit.checkpoint in the configuration). Give the files of rotations in the order in
which they were written, the oldest first; - is standard input.

PUB is the public key, as "keygate hsm public-key" prints it. Have it from a place
that whoever can write the log cannot write to. Where several tokens each have a
signing key pair of their own, give --key for each: a checkpoint of any of them is good.

What is not covered: lines from before the log was signed, those after the last
checkpoint, and the beginning of the first file, if files before it are not given.
The exit code is 0 only if all else is as it was.`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "PEM `FILE` of the public key; several, where each token has its own")
	cobra.CheckErr(cmd.MarkFlagRequired("key")) // fails only for a flag that does not exist
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		result, err := verifyAudit(cmd.InOrStdin(), keys, files)
		if err != nil {
			return explain(err) // has names of files, which whoever writes the log may have chosen
		}
		if err := printResult(cmd.OutOrStdout(), *asJSON, result, func(w io.Writer) { describeVerification(w, keys, result) }); err != nil {
			return err
		}
		if !result.OK {
			return errReported
		}
		return nil
	}
	return cmd
}

func verifyAudit(stdin io.Reader, keyFiles, files []string) (audit.Verification, error) {
	keys, err := readPublicKeys(keyFiles)
	if err != nil {
		return audit.Verification{}, err
	}
	v, err := audit.NewVerifier(keys...)
	if err != nil {
		return audit.Verification{}, err
	}
	for _, name := range files {
		if err := verifyFile(v, stdin, name); err != nil {
			return audit.Verification{}, err
		}
	}
	return v.Result(), nil
}

func verifyFile(v *audit.Verifier, stdin io.Reader, name string) error {
	if name == "-" {
		return v.File("standard input", stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(v.File(name, f), f.Close())
}

// describeVerification says what was found with the keys of these files.
func describeVerification(w io.Writer, keys []string, r audit.Verification) {
	fmt.Fprintf(w, "lines:\t%d\ncheckpoints:\t%d\ncovered:\t%d\n", r.Lines, r.Checkpoints, r.Covered)
	fmt.Fprintf(w, "before the log was signed:\t%d\nafter the last checkpoint:\t%d\n", r.Before, r.After)
	for i, k := range r.Keys {
		fmt.Fprintf(w, "signed by %s:\t%d (%s)\n", printable(keys[i]), k.Checkpoints, k.ID)
	}
	for _, p := range r.Problems {
		fmt.Fprintf(w, "%s:%d:\t%s\n", printable(p.File), p.Line, printable(p.Text))
	}
	switch {
	case r.OK:
		fmt.Fprintln(w, "The lines that are covered are as they were written.")
	case r.Checkpoints == 0:
		fmt.Fprintln(w, "No checkpoint of a key that was given covers anything: nothing is known.")
	default:
		fmt.Fprintln(w, "The log is not as it was written.")
	}
}
