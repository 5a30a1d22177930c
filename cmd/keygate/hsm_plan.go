package main

import (
	"fmt"
	"io"

	"github.com/keygate/keygate/hsm"
)

// printPlan prints what hsm init would do.
func printPlan(out io.Writer, p hsm.Plan, asJSON bool) error {
	if asJSON {
		return printResult(out, true, p, nil)
	}
	parts := []func(io.Writer){
		func(w io.Writer) { describeToken(w, p.Token); fmt.Fprintln(w) },
		func(w io.Writer) { listChecks(w, p.Checks); fmt.Fprintln(w) },
	}
	for _, key := range p.Make {
		parts = append(parts, func(w io.Writer) { describePlanned(w, key) })
	}
	parts = append(parts, func(w io.Writer) { describePlan(w, p) })
	for _, part := range parts {
		if err := printResult(out, false, nil, part); err != nil {
			return err
		}
	}
	return nil
}

func describePlanned(w io.Writer, key hsm.PlannedKey) {
	fmt.Fprintf(w, "C_GenerateKey would make %q with %s and\n", key.Label, key.Mechanism)
	for _, a := range key.Template {
		fmt.Fprintf(w, "  %s\t= %s\n", a.Name, a.Value)
	}
	for _, a := range key.Optional {
		fmt.Fprintf(w, "  %s\t= %s\tif the token knows it\n", a.Name, a.Value)
	}
	fmt.Fprintln(w)
}

func describePlan(w io.Writer, p hsm.Plan) {
	switch {
	case !p.OK():
		fmt.Fprintln(w, "Nothing was done. keygate hsm init would refuse the token.")
	case len(p.Make) == 0:
		fmt.Fprintln(w, "Nothing was done. There is nothing to make.")
	default:
		fmt.Fprintf(w, "Nothing was done. keygate hsm init would make %d keys.\n", len(p.Make))
	}
}
