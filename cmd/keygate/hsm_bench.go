package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/hsm"
)

func newHSMBenchCommand() *cobra.Command {
	var b hsm.Bench
	cmd := &cobra.Command{
		Use:   "bench --config FILE",
		Short: "Measure a token, to choose how many sessions to use",
		Long: `Measure how often a second a token wraps, unwraps, encrypts, decrypts, signs (HMAC)
and makes random bytes, 32 bytes each, with 1, 2, 4 and more sessions, up to twice
root.pkcs11.sessions, and how long each takes. It logs in once, in this process, and
leaves nothing in the token.

The number that it suggests for root.pkcs11.sessions is the smallest with which the
operations reach, on the average, nine tenths of their best rates. Gateways that share a token share
its rate, too. A token that serves others meanwhile is slower than it could be, and
they are slowed: measure before it is used.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.Flags().IntSliceVar(&b.Sessions, "sessions", nil, "`NUMBERS` of sessions to measure with; default 1,2,4,8,...")
	cmd.Flags().DurationVar(&b.Time, "time", hsm.DefaultBenchTime, "`DURATION` of each measurement")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		cfg, err := loadToken(*path)
		if err != nil {
			return err
		}
		report, err := hsm.Measure(cmd.Context(), cfg, b)
		if err != nil {
			return err
		}
		if err := printResult(cmd.OutOrStdout(), *asJSON, report, func(w io.Writer) { describeBench(w, report) }); err != nil {
			return err
		}
		if report.Suggested == 0 {
			return errReported
		}
		return nil
	}
	return cmd
}

func describeBench(w io.Writer, r hsm.BenchReport) {
	fmt.Fprintf(w, "%s %s, %s %s\n\n", r.Token.Manufacturer, r.Token.Model, r.Module, r.Token.Library)
	fmt.Fprintln(w, "operation\tsessions\ta second\tp50\tp90\tp99\tmax")
	for _, p := range r.Points {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%s\t%s\t%s\t%s", p.Operation, p.Sessions, p.PerSecond, seconds(p.P50), seconds(p.P90), seconds(p.P99), seconds(p.Max))
		if p.Error != "" {
			fmt.Fprintf(w, "\t%s", p.Error)
		}
		fmt.Fprintln(w)
	}
	if r.Suggested > 0 {
		fmt.Fprintf(w, "\nWith %d sessions the operations reach nine tenths of their best rates.\n", r.Suggested)
	}
}
