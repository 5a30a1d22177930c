package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/hsm"
)

func newHSMCommand() *cobra.Command {
	return group("hsm", "Prepare and examine a token", newHSMInitCommand(), newHSMDoctorCommand(), newHSMBenchCommand(),
		newHSMRotateCommand(), newHSMCopyCommand(), newHSMPublicKeyCommand(), newHSMRequestCommand(), newHSMAttestCommand())
}

// loadToken returns the token that a configuration names. No other section is
// looked at, as this comes before the rest of it can be right.
func loadToken(path string) (hsm.Config, error) {
	cfg, err := load(path, []sectionCheck{(*configuration).checkRoot})
	if err != nil {
		return hsm.Config{}, err
	}
	return cfg.token()
}

// initHSM holds the flags of hsm init.
type initHSM struct {
	config    *string
	makeToken bool
	soPINFile string
	dryRun    bool
	signing   bool
	rotatable bool
	copyable  bool
}

// A madeKeys is what hsm init prints.
type madeKeys struct {
	hsm.Made
	SigningKey *bool `json:"signing_key,omitempty"` // whether it was made; nil: it was not asked for
}

func newHSMInitCommand() *cobra.Command {
	var i initHSM
	cmd := &cobra.Command{
		Use:   "init --config FILE",
		Short: "Make the root keys in a token",
		Long: `Make the two root keys in the token of a configuration: the KEK, which wraps all
master keys, and the key that authenticates key records. They are made in the
token and can never leave it, unless --copyable wants otherwise. Keys that are there
are left as they are.

Make a backup of them, in the way of the HSM's maker, before you use them: without
them, all keys are lost.

--signing-key also makes a key pair (EC, P-256), of the label root.pkcs11.signing_key
or keygate-sign, whose private key can sign and do nothing else: for checkpoints of
the audit log (audit.checkpoint) and attestations (keygate hsm attest).

--dry-run makes nothing. It logs in once, as without it, and prints which keys are
there and with which attributes the others would be made. It is about the two root
keys: --signing-key and --make-token are not for it.

What cannot be changed later: whether the KEK can be replaced (--rotatable) and the
keys copied (--copyable).

--make-token first makes a token, for trials with SoftHSM2, unless there is one of
that label. Tokens of a real HSM are made with the tool of its maker.`,
		Args: cobra.NoArgs,
	}
	i.config = configFlag(cmd)
	cmd.Flags().BoolVar(&i.makeToken, "make-token", false, "make the token, with the PIN of root.pkcs11.pin.file, in a free slot of SoftHSM2")
	cmd.Flags().StringVar(&i.soPINFile, "so-pin-file", "", "`FILE` of the security officer's PIN of that token")
	cmd.MarkFlagsRequiredTogether("make-token", "so-pin-file")
	cmd.Flags().BoolVar(&i.dryRun, "dry-run", false, "print what would be done, and do nothing")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "make-token")
	cmd.Flags().BoolVar(&i.signing, "signing-key", false, "also make the key pair that signs")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "signing-key")
	cmd.Flags().BoolVar(&i.rotatable, "rotatable", true, "make a KEK that can be replaced, with the security officer's help; false: one that never can (docs/security.md)")
	cmd.Flags().BoolVar(&i.copyable, "copyable", false, "make keys that \"keygate hsm copy\" can copy to another token, with the security officer's help (docs/security.md)")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		if i.dryRun {
			return i.plan(cmd.Context(), cmd.OutOrStdout(), *asJSON)
		}
		made, err := i.run(cmd.Context())
		if err != nil {
			return err
		}
		return printResult(cmd.OutOrStdout(), *asJSON, made, func(w io.Writer) { describeMade(w, made) })
	}
	return cmd
}

func (i *initHSM) run(ctx context.Context) (made madeKeys, err error) {
	cfg, err := loadToken(*i.config)
	if err != nil {
		return made, err
	}
	if i.makeToken {
		if err := makeToken(ctx, cfg, i.soPINFile); err != nil && !errors.Is(err, hsm.ErrTokenExists) {
			return made, err
		}
	}
	if made.Made, err = hsm.InitWith(ctx, cfg, i.options()); err != nil || !i.signing {
		return made, err
	}
	_, signing, err := hsm.InitSigningKey(ctx, cfg)
	made.SigningKey = &signing
	return made, err
}

func (i *initHSM) options() hsm.InitOptions {
	return hsm.InitOptions{Strict: !i.rotatable, Copyable: i.copyable}
}

// plan prints what run would do.
func (i *initHSM) plan(ctx context.Context, out io.Writer, asJSON bool) error {
	cfg, err := loadToken(*i.config)
	if err != nil {
		return err
	}
	plan, err := hsm.PlanInit(ctx, cfg, i.options())
	if err != nil {
		return err
	}
	if err := printPlan(out, plan, asJSON); err != nil {
		return err
	}
	if !plan.OK() {
		return errReported
	}
	return nil
}

func makeToken(ctx context.Context, cfg hsm.Config, soPINFile string) error {
	if cfg.PIN.File == "" {
		return errors.New("--make-token needs root.pkcs11.pin.file")
	}
	user, err := readFile(cfg.PIN.File)
	if err != nil {
		return err
	}
	defer clear(user)
	officer, err := readFile(soPINFile)
	if err != nil {
		return err
	}
	defer clear(officer)
	return hsm.InitToken(ctx, cfg.Module, cfg.Token, string(bytes.TrimRight(officer, "\r\n")), string(bytes.TrimRight(user, "\r\n")))
}

func describeMade(w io.Writer, made madeKeys) {
	describeToken(w, made.Token)
	type key struct {
		name string
		made bool
	}
	keys := []key{{"kek", made.KEK}, {"record key", made.RecordKey}}
	if made.SigningKey != nil {
		keys = append(keys, key{"signing key", *made.SigningKey})
	}
	for _, key := range keys {
		state := "was there already"
		if key.made {
			state = "made"
		}
		fmt.Fprintf(w, "%s:\t%s\n", key.name, state)
	}
	replaced := "possible (keygate hsm rotate)"
	switch {
	case made.Copyable:
		replaced = "not in this token, as its root keys can be copied (keygate hsm copy)"
	case !made.Rotatable:
		replaced = "never: what it wraps cannot be wrapped by another"
	}
	fmt.Fprintf(w, "replacement of the kek:\t%s\n", replaced)
}

func describeToken(w io.Writer, t hsm.TokenInfo) {
	fmt.Fprintf(w, "token:\t%s\nserial:\t%s\nmodel:\t%s, %s\nmodule:\t%s\n", t.Label, t.Serial, t.Manufacturer, t.Model, t.Library)
}
