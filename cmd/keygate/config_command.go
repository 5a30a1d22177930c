package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newConfigCommand() *cobra.Command {
	return group("config", "Check a configuration", newConfigCheckCommand())
}

func newConfigCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Say what is wrong with a configuration file",
		Long: `Read a configuration file and the TLS files that it names, and print each thing
that is wrong, with its line. Neither the root of trust nor the key store is
touched.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		y, err := readYAML(*path)
		if err != nil {
			return err
		}
		_, err = newConfiguration(*path, y, everything)
		if err != nil && !*asJSON {
			return err
		}
		result := checkResult{Config: *path, Valid: err == nil, Problems: y.problems}
		if err := printResult(cmd.OutOrStdout(), *asJSON, result, result.text); err != nil {
			return err
		}
		if !result.Valid {
			return errReported
		}
		return nil
	}
	return cmd
}

// A checkResult is what config check prints.
type checkResult struct {
	Config   string    `json:"config"`
	Valid    bool      `json:"valid"`
	Problems []problem `json:"problems,omitempty"`
}

func (r checkResult) text(w io.Writer) { fmt.Fprintf(w, "%s: ok\n", r.Config) }
