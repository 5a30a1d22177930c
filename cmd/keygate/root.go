package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newRootOfTrustCommand() *cobra.Command {
	return group("root", "Prepare a root of trust", newRootInitCommand())
}

func newRootInitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make what the root of trust of a configuration needs",
		Long: `Make what the root of trust of a configuration needs before a gateway can use it:
for root.local the file of the root key, for root.awskms two KMS keys, for
root.vault two transit keys (log in with other rights than a gateway has:
docs/root-vault.md), for root.mirror all that of its two roots, and the record key
in both, with its file. The root keys of a PKCS#11 token are made
by "keygate hsm init", before.

What is there is never overwritten, and to do it again changes nothing. Make a
backup of what was made before you use it: without it, all keys are lost.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		cfg, err := load(*path, []sectionCheck{(*configuration).checkRoot})
		if err != nil {
			return err
		}
		root := configured(roots, &cfg.file)
		if root.init != nil {
			if err := root.init(cmd.Context(), cfg); err != nil {
				return err
			}
		}
		result := rootResult{Root: root.name, About: pairs(root.about(&cfg.file))}
		return printResult(cmd.OutOrStdout(), *asJSON, result, result.text)
	}
	return cmd
}

// A rootResult is what root init prints.
type rootResult struct {
	Root  string      `json:"root"`
	About [][2]string `json:"about"`
}

func (r rootResult) text(w io.Writer) {
	fmt.Fprintf(w, "root of trust:\t%s\n", r.Root)
	for _, pair := range r.About {
		fmt.Fprintf(w, "%s:\t%s\n", pair[0], pair[1])
	}
}

// pairs turns what a driver says about itself into texts.
func pairs(about []any) [][2]string {
	all := [][2]string{}
	for i := 0; i+1 < len(about); i += 2 {
		all = append(all, [2]string{fmt.Sprint(about[i]), fmt.Sprint(about[i+1])})
	}
	return all
}
