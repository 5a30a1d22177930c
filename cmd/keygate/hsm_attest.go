package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/hsm"
)

// attester returns what makes the gateway's attestations, or nil if its root of trust
// signs none.
func (n *node) attester(version string) func(context.Context, []byte) (*api.AttestResponse, error) {
	root, ok := n.root.(*hsm.Root)
	if !ok || n.cfg.Root.PKCS11.SigningKey == "" {
		return nil
	}
	cluster := n.cfg.cluster.String()
	return func(ctx context.Context, nonce []byte) (*api.AttestResponse, error) {
		a, err := root.Attest(ctx, hsm.AttestRequest{Nonce: nonce, Cluster: cluster, Gateway: version})
		if errors.Is(err, hsm.ErrNoKey) {
			return nil, errors.Join(api.ErrNoAttestation, err)
		}
		if err != nil {
			return nil, err
		}
		answer := &api.AttestResponse{Missing: a.Missing}
		for _, e := range a.Envelopes {
			text, err := json.Marshal(e)
			if err != nil {
				return nil, err
			}
			answer.Attestations = append(answer.Attestations, text)
		}
		return answer, nil
	}
}

func newHSMAttestCommand() *cobra.Command {
	var nonce string
	cmd := &cobra.Command{
		Use:   "attest --config FILE",
		Short: "Print a signed statement of what a token says of the root keys",
		Long: `Print what the token of a configuration says of the root keys, signed by the key
root.pkcs11.signing_key in it: JSON, with a DSSE envelope for each token. A gateway
answers the same to /v1/hsm/attest.

The statement is made by keygate of what the PKCS#11 module says. It is not an
attestation of the HSM's maker: docs/security.md says what it proves.`,
		Args: cobra.NoArgs,
	}
	path := configFlag(cmd)
	cmd.Flags().StringVar(&nonce, "nonce", "", "up to 64 bytes in `HEX` that the statement repeats, so that it is known to be new")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(); err != nil {
			return err
		}
		cfg, err := load(*path, []sectionCheck{(*configuration).checkRoot, (*configuration).checkCluster})
		if err != nil {
			return err
		}
		a, err := attest(cmd.Context(), cfg, nonce)
		if err != nil {
			return err
		}
		return printResult(cmd.OutOrStdout(), true, a, nil)
	}
	cmd.AddCommand(newHSMAttestVerifyCommand())
	return cmd
}

func attest(ctx context.Context, cfg *configuration, nonce string) (hsm.Attestation, error) {
	b, err := hex.DecodeString(nonce)
	if err != nil || len(b) > hsm.MaxNonce {
		return hsm.Attestation{}, fmt.Errorf("--nonce is not up to %d bytes in hex digits", hsm.MaxNonce)
	}
	if cfg.Root.PKCS11 == nil || cfg.Root.PKCS11.SigningKey == "" {
		return hsm.Attestation{}, errors.New("the configuration has no root.pkcs11.signing_key: without a key in the token nothing can be signed")
	}
	root, err := hsm.Open(ctx, *cfg.Root.PKCS11, warnings())
	if err != nil {
		return hsm.Attestation{}, err
	}
	a, err := root.Attest(ctx, hsm.AttestRequest{Nonce: b, Cluster: cfg.cluster.String(), Gateway: thisVersion().Version})
	return a, errors.Join(err, root.Close())
}

// verifyAttestation holds the flags of hsm attest verify.
type verifyAttestation struct {
	keys   []string
	nonce  string
	maxAge time.Duration
}

// An attestationResult is what hsm attest verify prints of one token.
type attestationResult struct {
	hsm.Statement
	Weak []string `json:"weak"`
}

func newHSMAttestVerifyCommand() *cobra.Command {
	var v verifyAttestation
	cmd := &cobra.Command{
		Use:   "verify --key PUB FILE",
		Short: "Verify such a statement, and say what is weak",
		Long: `Verify what "keygate hsm attest" printed, or a gateway answered: that each statement
is signed by the public key of PUB, as "keygate hsm public-key" prints it, and with
--nonce and --max-age that it is new. FILE may be - for standard input. Then the
attributes of the keys are looked at, by the rules that a gateway has for them, what
it found when it tried to unwrap a key readable, and which rules it was told to accept.

The exit code is 0 only if all statements are good and nothing is weak.`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringArrayVar(&v.keys, "key", nil, "PEM `FILE` of the public key; several, where each token has its own")
	cobra.CheckErr(cmd.MarkFlagRequired("key")) // fails only for a flag that does not exist
	cmd.Flags().StringVar(&v.nonce, "nonce", "", "the nonce that was asked with, in `HEX`")
	cmd.Flags().DurationVar(&v.maxAge, "max-age", 0, "refuse a statement that is older, or as much from the future")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		results, err := v.run(cmd.InOrStdin(), args[0])
		if err != nil {
			return err
		}
		if err := printResult(cmd.OutOrStdout(), *asJSON, results, func(w io.Writer) { describeStatements(w, results) }); err != nil {
			return err
		}
		for _, r := range results {
			if len(r.Weak) > 0 {
				return errReported
			}
		}
		return nil
	}
	return cmd
}

func (v *verifyAttestation) run(stdin io.Reader, file string) ([]attestationResult, error) {
	keys, err := readPublicKeys(v.keys)
	if err != nil {
		return nil, err
	}
	text, err := readInput(stdin, file)
	if err != nil {
		return nil, err
	}
	var a hsm.Attestation
	if err := json.Unmarshal(text, &a); err != nil || len(a.Envelopes) == 0 {
		return nil, fmt.Errorf("%s holds no attestation", file)
	}
	var results []attestationResult
	for _, e := range a.Envelopes {
		st, err := hsm.VerifyStatement(e, keys...)
		if err == nil {
			err = v.isNew(st, time.Now())
		}
		if err != nil {
			return nil, err
		}
		r := attestationResult{st, st.Weak()}
		if st.Tokens != len(a.Envelopes) {
			r.Weak = append(r.Weak, fmt.Sprintf("the root of trust has %d tokens, and %d have made a statement", st.Tokens, len(a.Envelopes)))
		}
		r.Weak = append(r.Weak, notBeside(st, results)...)
		results = append(results, r)
	}
	return results, nil
}

// notBeside says why st is none of the statements of another token of the root that
// others are of: whoever passes statements on could repeat one in the place of another.
func notBeside(st hsm.Statement, others []attestationResult) (why []string) {
	for _, o := range others {
		if o.Token.TokenInfo == st.Token.TokenInfo {
			why = append(why, fmt.Sprintf("it and another statement are of the same token (serial number %s), or of one that cannot be told from it", st.Token.Serial))
		}
		if o.Cluster != st.Cluster {
			why = append(why, fmt.Sprintf("it is of the cluster %q, and another statement of another cluster, %q", st.Cluster, o.Cluster))
		}
	}
	return why
}

// isNew returns an error if st is not the answer to the nonce, or too old.
func (v *verifyAttestation) isNew(st hsm.Statement, now time.Time) error {
	if v.nonce != "" && !strings.EqualFold(v.nonce, st.Nonce) {
		return fmt.Errorf("%w: its nonce is %q, not %q", hsm.ErrStatement, st.Nonce, v.nonce)
	}
	if age := now.Sub(st.Time); v.maxAge > 0 && age.Abs() > v.maxAge {
		return fmt.Errorf("%w: it is of %s, which is %s ago", hsm.ErrStatement, st.Time.Format(time.RFC3339), age.Round(time.Second))
	}
	return nil
}

func describeStatements(w io.Writer, results []attestationResult) {
	for _, r := range results {
		describeToken(w, r.Token.TokenInfo)
		fmt.Fprintf(w, "hardware, firmware:\t%s, %s\ntime:\t%s\ncluster:\t%s\nnonce:\t%s\n", r.Token.Hardware, r.Token.Firmware, r.Time.Format(time.RFC3339), r.Cluster, r.Nonce)
		for _, k := range r.Keys {
			fmt.Fprintf(w, "%s:\t%s, CKA_ID %s", strings.Replace(k.Role+" key", "kek key", "kek", 1), k.Label, k.ID)
			if k.Check != "" {
				fmt.Fprintf(w, ", check value %s", k.Check)
			}
			if k.Unwraps != "" {
				fmt.Fprintf(w, ", what it unwraps is %s", k.Unwraps)
			}
			fmt.Fprintln(w)
		}
		for _, weak := range r.Weak {
			fmt.Fprintf(w, "WEAK:\t%s\n", weak)
		}
	}
	fmt.Fprintln(w, "Each statement is signed by the key. That the module told the truth is not shown by it.")
}
