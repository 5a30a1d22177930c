package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newRootInitCommand() *cobra.Command {
	return group("root", "Prepare a root of trust", newRootInit())
}

func newRootInit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make what the root of trust of a configuration needs",
		Long: `Make what the root of trust of a configuration needs, and use it once: for
root.vault the transit key that authenticates key records, which all gateways of a
cluster share, and one to test the engine with. Log in with other rights than a
gateway has (docs/root-vault.md): it has no right to make these two.

To do it again changes nothing. For root.pkcs11 see keygate hsm init.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		// No other section is looked at, as this comes before the rest of it can
		// be right.
		cfg, err := load(*path, []sectionCheck{(*configuration).checkRoot})
		if err != nil {
			return err
		}
		root := configured(roots, &cfg.file)
		if root.init == nil {
			return fmt.Errorf("root.%s is not prepared with this command", root.name)
		}
		if err := root.init(cmd.Context(), cfg); err != nil {
			return err
		}
		result := rootResult{Root: root.name, Ready: true}
		return printResult(cmd.OutOrStdout(), *asJSON, result, result.text)
	}
	return cmd
}

// A rootResult is what root init prints.
type rootResult struct {
	Root  string `json:"root"`
	Ready bool   `json:"ready"` // it has been used
}

func (r rootResult) text(w io.Writer) { fmt.Fprintf(w, "root:\t%s, ready\n", r.Root) }
