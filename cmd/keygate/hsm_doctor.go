package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/hsm"
)

func newHSMDoctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor --config FILE",
		Short: "Say whether a token can be the root of trust",
		Long: `Look at the token of a configuration: which mechanisms it has, whether the root
keys are there and can neither leave it nor give away what they wrap, and whether
they work. Nothing in it is changed. The exit code is 0 only if all is well.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		cfg, err := loadToken(*path)
		if err != nil {
			return err
		}
		report, err := hsm.Doctor(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		if err := printResult(cmd.OutOrStdout(), *asJSON, report, func(w io.Writer) { describeReport(w, report) }); err != nil {
			return err
		}
		if !report.OK {
			return errReported
		}
		return nil
	}
	return cmd
}

func describeReport(w io.Writer, r hsm.Report) {
	describeToken(w, r.Token)
	for _, c := range r.Checks {
		verdict := "ok"
		if !c.OK {
			verdict = "BAD: " + c.Why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.What, c.Found, verdict)
	}
	if r.OK {
		fmt.Fprintln(w, "The token can be used.")
	} else {
		fmt.Fprintln(w, "The token is refused.")
	}
}
