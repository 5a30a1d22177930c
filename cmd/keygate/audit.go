package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/audit"
)

func newAuditCommand() *cobra.Command {
	return group("audit", "Verify audit logs", newAuditVerifyCommand())
}

func newAuditVerifyCommand() *cobra.Command {
	var (
		keys     []string
		unlinked = unlinkedFlag(0)
	)
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

Each run of a gateway says in its first line which run was before it, and how far that
had come. One that says nothing (as on standard output, or where the file .NAME.chain
beside the log NAME is gone) could stand anywhere, and whole runs before it be missing:
such runs are counted, the first one aside, and are an error unless --unlinked allows
so many of them.

What is not covered: lines from before the log was signed, those after the last
checkpoint, and what was before the first file; if a run was there, it is named.
The exit code is 0 only if all else is as it was.`,
		Args: cobra.MinimumNArgs(1),
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "PEM `FILE` of the public key; several, where each token has its own")
	cmd.Flags().Var(&unlinked, "unlinked", "how many runs may say nothing of the run before them: a number, or any")
	cobra.CheckErr(cmd.MarkFlagRequired("key")) // fails only for a flag that does not exist
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, files []string) error {
		result, err := verifyAudit(cmd.InOrStdin(), keys, int(unlinked), files)
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

// An unlinkedFlag is a number, or "any", which is a negative one.
type unlinkedFlag int

func (*unlinkedFlag) Type() string { return "N" }

func (f *unlinkedFlag) String() string {
	if *f < 0 {
		return "any"
	}
	return strconv.Itoa(int(*f))
}

func (f *unlinkedFlag) Set(text string) error {
	if text == "any" {
		*f = -1
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return errors.New("it is neither a number nor any")
	}
	*f = unlinkedFlag(n)
	return nil
}

func verifyAudit(stdin io.Reader, keyFiles []string, unlinked int, files []string) (audit.Verification, error) {
	keys, err := readPublicKeys(keyFiles)
	if err != nil {
		return audit.Verification{}, err
	}
	v, err := audit.NewVerifier(keys...)
	if err != nil {
		return audit.Verification{}, err
	}
	v.AllowUnlinked(unlinked)
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
	if r.Follows != "" {
		fmt.Fprintf(w, "not here, before the first file:\trun %s\n", printable(r.Follows))
	}
	fmt.Fprintf(w, "runs without a word of the one before:\t%d\n", len(r.Unlinked))
	if !r.OK {
		describeLines(w, r.Unlinked)
	}
	describeLines(w, r.Problems)
	fmt.Fprintln(w, verdict(r))
}

// describeLines says what was noticed. It may be what whoever can write the log has
// chosen, and the names of its files.
func describeLines(w io.Writer, lines []audit.Problem) {
	for _, p := range lines {
		fmt.Fprintf(w, "%s:%d:\t%s\n", printable(p.File), p.Line, printable(p.Text))
	}
}

func verdict(r audit.Verification) string {
	switch {
	case r.OK:
		return "The lines that are covered are as they were written."
	case r.Checkpoints == 0:
		return "No checkpoint of a key that was given covers anything: nothing is known."
	case len(r.Problems) > 0:
		return "The log is not as it was written."
	}
	return "The runs are as they were written. Whether there were others between them is not known (--unlinked)."
}
