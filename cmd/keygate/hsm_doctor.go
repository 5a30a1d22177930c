package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/hsm"
)

func newHSMDoctorCommand() *cobra.Command {
	how := hsm.Examination{Latencies: true}
	cmd := &cobra.Command{
		Use:   "doctor --config FILE",
		Short: "Say whether a token can be the root of trust",
		Long: `Look at the token of a configuration, or each of several: what it is and can do,
whether the root keys are there and can neither leave it nor give away what they
wrap, whether they work, and how long the calls take that a gateway makes; and of
several tokens, whether they have the same root keys. Nothing in them is changed. The
exit code is 0 only if all is well.

It logs in once. Where the token says that one wrong PIN more locks it, neither
doctor nor server tries the PIN; --final-try has doctor do it, and if the PIN is
right, the token's count begins anew.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.Flags().BoolVar(&how.FinalTry, "final-try", false, "log in even if a wrong PIN would lock the token")
	cmd.Flags().BoolVar(&how.Latencies, "latency", true, "measure calls, 200 of each, or for two seconds")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		cfg, err := loadToken(*path)
		if err != nil {
			return err
		}
		return examine(cmd.Context(), cmd.OutOrStdout(), cfg, how, *asJSON)
	}
	return cmd
}

// examine reports on the tokens of cfg. With --json that of one is an object, and that of
// several an array.
func examine(ctx context.Context, out io.Writer, cfg hsm.Config, how hsm.Examination, asJSON bool) error {
	all, err := hsm.ExamineEach(ctx, cfg, how)
	fit := !slices.ContainsFunc(all, func(r hsm.Report) bool { return !r.OK })
	seen := slices.DeleteFunc(all, func(r hsm.Report) bool { return r.Details == nil }) // there is nothing but the error
	if err := printReports(out, seen, len(cfg.Tokens) > 1, asJSON); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if !fit {
		return errReported
	}
	return nil
}

func printReports(out io.Writer, reports []hsm.Report, several, asJSON bool) error {
	switch {
	case len(reports) == 0:
		return nil
	case asJSON && several:
		return printResult(out, true, reports, nil)
	case asJSON:
		return printResult(out, true, reports[0], nil)
	}
	for _, r := range reports {
		// Each table has columns of its own.
		for _, part := range []func(io.Writer, hsm.Report){describeWhat, describeMechanisms, describeChecks, describeLatencies, describeKeys, describeVerdict} {
			if err := printResult(out, false, nil, func(w io.Writer) { part(w, r) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func describeWhat(w io.Writer, r hsm.Report) {
	fmt.Fprintf(w, "module file:\t%s\n", r.Module)
	describeToken(w, r.Token)
	d := r.Details
	fmt.Fprintf(w, "interface:\tPKCS#11 %s\nslot:\t%d, %s\nhardware:\t%s\nfirmware:\t%s\nflags:\t%s\n",
		d.Cryptoki, d.Slot, d.Description, d.Hardware, d.Firmware, strings.Join(d.Flags, " "))
	clock := "none"
	if c := d.Clock; c != nil {
		clock = fmt.Sprintf("%s, %+.0f s from this machine's", c.Time.Format(time.RFC3339), c.Offset)
	}
	fmt.Fprintf(w, "clock:\t%s\nsessions:\t%v\nread-write sessions:\t%v\npublic memory:\t%v\nprivate memory:\t%v\nPIN:\t%d to %d bytes\n\n",
		clock, d.Sessions, d.RWSessions, d.PublicBytes, d.PrivateBytes, d.MinPIN, d.MaxPIN)
}

func describeMechanisms(w io.Writer, r hsm.Report) {
	fmt.Fprintln(w, "mechanism\tkeys\tflags")
	for _, m := range r.Mechanisms {
		name := m.Name
		if m.Needed {
			name += " *"
		}
		keys := "-"
		if m.MaxKey > 0 {
			keys = fmt.Sprintf("%d to %d", m.MinKey, m.MaxKey)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, keys, strings.Join(m.Flags, " "))
	}
	if slices.ContainsFunc(r.Mechanisms, func(m hsm.Mechanism) bool { return m.Needed }) {
		fmt.Fprintln(w, "* is used")
	}
	fmt.Fprintln(w)
}

func describeChecks(w io.Writer, r hsm.Report) { listChecks(w, r.Checks) }

func listChecks(w io.Writer, checks []hsm.Check) {
	for _, c := range checks {
		verdict := "ok"
		if !c.OK {
			verdict = "BAD: " + c.Why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.What, c.Found, verdict)
	}
}

func describeLatencies(w io.Writer, r hsm.Report) {
	if len(r.Latencies) == 0 {
		return
	}
	fmt.Fprintln(w, "\ncall\tcalls\tp50\tp90\tp99\tmax")
	for _, l := range r.Latencies {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", l.Call, l.Calls, seconds(l.P50), seconds(l.P90), seconds(l.P99), seconds(l.Max))
	}
	fmt.Fprintln(w)
}

// seconds shows a time with three digits or so.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return d.Round(100 * time.Nanosecond).String()
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

func describeKeys(w io.Writer, r hsm.Report) {
	if len(r.Keys) == 0 {
		return
	}
	fmt.Fprintln(w, "\nkey in the token\tCKA_ID")
	for _, k := range r.Keys {
		fmt.Fprintf(w, "%s\t%s\n", k.ID, k.Object)
	}
}

func describeVerdict(w io.Writer, r hsm.Report) {
	switch {
	case r.OK:
		fmt.Fprintln(w, "The token can be used.")
	case r.Unfinished != "":
		fmt.Fprintln(w, "The token could not be looked at to the end.")
	default:
		fmt.Fprintln(w, "The token is refused.")
	}
}
