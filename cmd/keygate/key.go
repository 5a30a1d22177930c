package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/kms"
)

func newKeyCommand() *cobra.Command {
	return group("key", "Create, use and delete master keys",
		newKeyCreateCommand(), newKeyImportCommand(), newKeyModeCommand(), newKeyInfoCommand(), newKeyListCommand(), newKeyRemoveCommand(),
		newKeyDEKCommand(), newKeyEncryptCommand(), newKeyDecryptCommand(), newKeyHMACCommand())
}

func newKeyCreateCommand() *cobra.Command {
	var mode string
	cmd := remote(&cobra.Command{
		Use:   "create NAME...",
		Short: "Create keys inside the root of trust",
		Args:  cobra.MinimumNArgs(1),
	}, nil, func(s *session, args []string) error {
		if mode == "" {
			return s.each("created", args, s.client.CreateKey)
		}
		return s.each("created", args, func(ctx context.Context, name string) error {
			return s.client.CreateKeyWithMode(ctx, name, mode)
		})
	})
	cmd.Flags().StringVar(&mode, "mode", "", "how data keys are made: direct, branch, or default, which is the gateway's `MODE`")
	return cmd
}

func newKeyModeCommand() *cobra.Command {
	return remote(&cobra.Command{
		Use:   "mode NAME MODE",
		Short: "Change how data keys are made of a key",
		Long: `Change how data keys are made of a key. MODE is direct: each is made with a call of
the root of trust; branch: they are made in memory, under a branch key that the root
wraps now and then; or default: as the gateway's configuration says. What was made
before opens as it did.`,
		Args: cobra.ExactArgs(2),
	}, (*client.Client).ListKeys, func(s *session, args []string) error {
		return s.each("changed", args[:1], func(ctx context.Context, name string) error {
			return s.client.SetKeyMode(ctx, name, args[1])
		})
	})
}

func newKeyImportCommand() *cobra.Command {
	var raw bool
	cmd := remote(&cobra.Command{
		Use:   "import NAME [FILE]",
		Short: "Bring a key of one's own into the root of trust",
		Long: `Bring a key of 32 bytes into the root of trust. FILE, or standard input, holds
it in base64, or as it is with --raw. The key opens ciphertexts that KES made
under it.`,
		Args: cobra.RangeArgs(1, 2),
	}, nil, func(s *session, args []string) error {
		key, err := s.importedKey(args[1:], raw)
		if err != nil {
			return err
		}
		defer clear(key)
		return s.each("imported", args[:1], func(ctx context.Context, name string) error {
			return s.client.ImportKey(ctx, name, key)
		})
	})
	cmd.Flags().BoolVar(&raw, "raw", false, "the key is 32 bytes, not base64")
	return cmd
}

func newKeyRemoveCommand() *cobra.Command {
	return remote(&cobra.Command{
		Use:   "rm NAME...",
		Short: "Delete keys",
		Long: `Delete keys. They cannot be used from now on, and what they encrypted cannot be
decrypted. How long their records are kept after that is the gateway's setting:
"keygate key info" tells.

No command undoes it yet. Only a record of before, from a backup of the key store,
brings a key back: stop all gateways, put it in its place, and start them
(docs/operations.md). With deletion.window 0 the key in the root of trust may be
gone too, and then nothing does.`,
		Args: cobra.MinimumNArgs(1),
	}, (*client.Client).ListKeys, func(s *session, args []string) error {
		return s.each("deleted", args, s.client.DeleteKey)
	})
}

// each does something to each key and reports those that it was done to, also
// if one fails.
func (s *session) each(done string, names []string, do func(ctx context.Context, name string) error) error {
	succeeded := []string{}
	var failed error
	for _, name := range names {
		if err := do(s.ctx, name); err != nil {
			failed = fmt.Errorf("key %q: %w", name, err)
			break
		}
		succeeded = append(succeeded, name)
	}
	if failed != nil && len(succeeded) == 0 {
		return failed
	}
	err := s.print(map[string][]string{done: succeeded}, func(w io.Writer) {
		for _, name := range succeeded {
			fmt.Fprintln(w, done, name)
		}
	})
	if failed != nil {
		return failed
	}
	return err
}

func newKeyInfoCommand() *cobra.Command {
	return remote(&cobra.Command{
		Use:   "info NAME",
		Short: "Describe a key",
		Args:  cobra.ExactArgs(1),
	}, (*client.Client).ListKeys, func(s *session, args []string) error {
		k, err := s.client.DescribeKey(s.ctx, args[0])
		if err != nil {
			return fmt.Errorf("key %q: %w", args[0], err)
		}
		return s.print(k, func(w io.Writer) {
			fmt.Fprintf(w, "name:\t%s\n", k.Name)
			fmt.Fprintf(w, "id:\t%s\n", k.ID)
			fmt.Fprintf(w, "state:\t%s\n", k.State)
			if k.DeleteAfter != nil {
				fmt.Fprintf(w, "kept until:\t%s\n", k.DeleteAfter.Format(time.RFC3339))
			}
			fmt.Fprintf(w, "version:\t%d\n", k.Version)
			fmt.Fprintf(w, "mode:\t%s\n", k.Mode)
			fmt.Fprintf(w, "operations:\t%d of %d reserved\n", k.Operations, uint64(kms.MaxOperations))
			fmt.Fprintf(w, "algorithm:\t%s\n", k.Algorithm)
			fmt.Fprintf(w, "imported:\t%t\n", k.Imported)
			fmt.Fprintf(w, "created:\t%s\n", k.CreatedAt.Format(time.RFC3339))
			fmt.Fprintf(w, "created by:\t%s\n", k.CreatedBy)
		})
	})
}

func newKeyListCommand() *cobra.Command {
	return listCommand("List keys", "names", (*client.Client).ListKeys)
}

// listCommand returns a command "ls [PREFIX]" that prints what list returns,
// under field in JSON.
func listCommand(short, field string, list lister) *cobra.Command {
	return remote(&cobra.Command{
		Use:   "ls [PREFIX]",
		Short: short,
		Args:  cobra.MaximumNArgs(1),
	}, list, func(s *session, args []string) error {
		prefix := ""
		if len(args) > 0 {
			prefix = args[0]
		}
		names, err := list(s.client, s.ctx, prefix)
		if err != nil {
			return err
		}
		if names == nil {
			names = []string{} // not null in JSON
		}
		return s.print(map[string][]string{field: names}, func(w io.Writer) {
			for _, name := range names {
				fmt.Fprintln(w, name)
			}
		})
	})
}
