package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
)

func newHSMRotateCommand() *cobra.Command {
	return group("rotate", "Replace the KEK of a token", newRotateBeginCommand(), newRotateRunCommand(), newRotateStatusCommand())
}

func newRotateBeginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "begin --config FILE --so-pin-file FILE",
		Short: "Make a new KEK that the security officer trusts",
		Long: `Make the KEK that the configuration names, as root.pkcs11.kek or one of other_keks,
and that the token does not have yet. The security officer of the token gives it
CKA_TRUSTED, which no other can, so that it may wrap what the present KEK has
wrapped. Nothing uses it yet. The configuration names one token; with several the new
KEK is then cloned to the others in the way of their maker.

Then make a backup of the token, tell all gateways of the new KEK in other_keks, and
only when all know it make it their kek, with the old one in other_keks; then comes
"keygate hsm rotate run". docs/operations.md has the ceremony.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	officer := cmd.Flags().String("so-pin-file", "", "`FILE` of the PIN of the token's security officer")
	cobra.CheckErr(cmd.MarkFlagRequired("so-pin-file"))
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		cfg, err := loadToken(*path)
		if err != nil {
			return err
		}
		made, err := hsm.BeginRotation(cmd.Context(), cfg, hsm.PIN{File: *officer})
		if err != nil {
			return err
		}
		return printResult(cmd.OutOrStdout(), *asJSON, made, func(w io.Writer) {
			describeToken(w, made.Token)
			fmt.Fprintf(w, "new kek:\t%s\nid:\t%s\n", made.Label, made.ID)
		})
	}
	return cmd
}

func newRotateRunCommand() *cobra.Command {
	var rate float64
	cmd := &cobra.Command{
		Use:   "run --config FILE",
		Short: "Wrap all keys of the key store by the present KEK",
		Long: `Have the KEK that the configuration names as root.pkcs11.kek wrap the keys of all
records of the key store: all versions, MAC keys, and keys that are pending
deletion. Gateways go on meanwhile, if all of them have both KEKs in their
configuration. Each record is written when its new form was used and gave the same
key. What was done stays done: run it again after whatever ended it.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	cmd.Flags().Float64Var(&rate, "rate", 0, "at most so many records a second (0: as many as can be)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if rate < 0 {
			return errors.New("--rate: it is negative")
		}
		return withKMS(cmd.Context(), *path, func(ctx context.Context, k *kms.KMS, _ *configuration) error {
			progress := newProgress(cmd.ErrOrStderr())
			result, err := k.RewrapKeys(ctx, kms.RewrapOptions{Rate: rate, Progress: progress.tell})
			return errors.Join(printResult(cmd.OutOrStdout(), *asJSON, result, func(w io.Writer) { describeRewrap(w, result) }), err)
		})
	}
	return cmd
}

// withKMS runs fn with a KMS over the root and the key store of a configuration, as a
// gateway has it, until it returns or the process is told to stop.
func withKMS(ctx context.Context, path string, fn func(context.Context, *kms.KMS, *configuration) error) (err error) {
	if err := harden(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	cfg, err := load(path, []sectionCheck{(*configuration).checkCluster, (*configuration).checkKMS, (*configuration).checkBranch, (*configuration).checkKeyStore, (*configuration).checkRoot})
	if err != nil {
		return err
	}
	log := warnings()
	root, err := configured(roots, &cfg.file).open(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	store, err := configured(keyStores, &cfg.file).open(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	k, err := kms.New(cfg.kms(log), root, store)
	if err != nil {
		return err
	}
	return fn(ctx, k, cfg)
}

// warnings is the log of a command that opens what a gateway opens: on standard error,
// without what only tells.
func warnings() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// A progress tells now and then how far it is.
type progress struct {
	out           io.Writer
	keys, changed int
	told          time.Time
}

// progressInterval is how often a progress tells.
const progressInterval = 5 * time.Second

func newProgress(out io.Writer) *progress { return &progress{out: out, told: time.Now()} }

func (p *progress) tell(_ string, changed bool, err error) {
	p.keys++
	if changed && err == nil {
		p.changed++
	}
	if time.Since(p.told) < progressInterval {
		return
	}
	p.told = time.Now()
	fmt.Fprintf(p.out, "keygate: %d records done, of which %d were re-wrapped now\n", p.keys, p.changed)
}

func describeRewrap(w io.Writer, r kms.RewrapResult) {
	fmt.Fprintf(w, "records:\t%d\nre-wrapped:\t%d\ndeleted meanwhile:\t%d\nfailed:\t%d\n", r.Keys, r.Changed, r.Gone, r.Failed)
}

func newRotateStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status --config FILE",
		Short: "Say which KEK the records of the key store need",
		Long: `Count the records of the key store that need each KEK, and say when one is no longer
needed. The exit code is 0 only if all records need the present KEK alone.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return withKMS(cmd.Context(), *path, func(ctx context.Context, k *kms.KMS, cfg *configuration) error {
			found, err := k.Wrappings(ctx)
			if err != nil {
				return err
			}
			s := rotateStatus{KEKs: withUnused(found, cfg.Root.PKCS11), At: time.Now().UTC().Truncate(time.Second)}
			s.Done = s.done()
			if err := printResult(cmd.OutOrStdout(), *asJSON, s, s.text); err != nil {
				return err
			}
			if !s.Done {
				return errReported
			}
			return nil
		})
	}
	return cmd
}

// A rotateStatus is what hsm rotate status prints.
type rotateStatus struct {
	KEKs []kms.Wrapping `json:"keks"`
	At   time.Time      `json:"at"`
	Done bool           `json:"done"` // no record needs another KEK than the present one
}

// withUnused adds the KEKs of the configuration that no record needs.
func withUnused(found []kms.Wrapping, cfg *hsm.Config) []kms.Wrapping {
	if cfg == nil {
		return found
	}
	present := cfg.KEK
	if present == "" {
		present = hsm.DefaultKEK
	}
	known := make(map[string]bool)
	for _, w := range found {
		known[w.KEK] = true
	}
	for _, label := range append([]string{present}, cfg.OtherKEKs...) {
		if !known[label] {
			found = append(found, kms.Wrapping{KEK: label, Present: label == present})
		}
	}
	return found
}

func (s rotateStatus) done() bool {
	for _, w := range s.KEKs {
		if !w.Present && w.KEK != "" && w.Records > 0 {
			return false
		}
	}
	return true
}

func (s rotateStatus) text(w io.Writer) {
	fmt.Fprintln(w, "KEK\trecords\tkeys in them")
	for _, k := range s.KEKs {
		name := k.KEK
		switch {
		case name == "":
			name = "none: in the token"
		case k.Present:
			name += " (present)"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\n", name, k.Records, k.Handles)
	}
	for _, k := range s.KEKs {
		if k.Present || k.KEK == "" {
			continue
		}
		if k.Records > 0 {
			others := ""
			if k.Records > len(k.Some) {
				others = fmt.Sprintf(" and %d others", k.Records-len(k.Some))
			}
			fmt.Fprintf(w, "%s is needed by %q%s: keygate hsm rotate run\n", k.KEK, k.Some, others)
			continue
		}
		fmt.Fprintf(w, "No record needs %s. If any did, backups of the key store from before %s still do: keep it for as long as you keep these.\n", k.KEK, s.At.Format(time.RFC3339))
	}
}
