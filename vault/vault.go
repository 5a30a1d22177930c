// Package vault is the root of trust over the transit engine of HashiCorp Vault
// or OpenBao: a kms.Root whose keys are transit keys, made there, that cannot be
// exported. docs/root-vault.md says what a server has to have, and what each
// operation costs.
//
// A server that cannot be reached, is sealed or is failing is ErrUnavailable,
// from the start on: a gateway that starts then serves as soon as it is back.
package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/vault/vaultapi"
)

// A Root is a kms.Root in a transit engine.
type Root struct {
	cfg      Config
	api      *vaultapi.Client
	examined atomic.Bool // the keys of Init are there and as they must be

	mu     sync.Mutex
	proved map[string]time.Time // handles whose keys were found good, and when
	wellAt time.Time            // when Status last found all well
}

var _ kms.Root = (*Root)(nil)

// Format writes where r is, whatever the verb, and nothing that it holds.
func (r *Root) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "vault.Root(%q)", r.cfg.Address) }

// Open returns the root that Init has made. It fails if the configuration is
// wrong, or the server says that it is: a login that is refused, keys of Init
// that are not there or could be exported. A server that cannot say is logged,
// and each call tells, with ErrUnavailable, until it can. A nil logger means
// slog.Default.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Root, error) {
	log = cmp.Or(log, slog.Default())
	r, err := newRoot(cfg, log)
	if err != nil {
		return nil, err
	}
	err = r.Status(ctx)
	var missing *missingKeyError
	if errors.Is(err, kms.ErrUnavailable) && !errors.As(err, &missing) {
		log.Warn("vault: the server cannot be used yet", "address", cfg.Address, "error", err)
		return r, nil
	}
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func newRoot(cfg Config, log *slog.Logger) (*Root, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	api, err := vaultapi.New(cfg.Config, log)
	if err != nil {
		return nil, err
	}
	return &Root{cfg: cfg, api: api, proved: make(map[string]time.Time)}, nil
}

// Close gives the token of the login back.
func (r *Root) Close() error { return r.api.Close() }

// Stats counts what was asked of the server.
func (r *Root) Stats() vaultapi.Stats { return r.api.Stats() }

// path returns where an operation on a transit key is.
func (r *Root) path(operation, name string) string {
	return r.cfg.Mount + "/" + operation + "/" + name
}

// handleFor reads a handle that is used for purpose.
func handleFor(b []byte, purpose kms.Purpose) (keyHandle, error) {
	h, err := parseHandle(b)
	if err == nil && h.purpose != purpose {
		err = fmt.Errorf("vault: a key for the purpose %d is used for %d: %w", h.purpose, purpose, kms.ErrUnsupported)
	}
	return h, err
}

// Encrypt encrypts with the newest version of the transit key; see kms.Root. The
// ciphertext is the text that transit returns, "vault:vN:" included.
func (r *Root) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	h, err := handleFor(handle, kms.Encryption)
	if err != nil {
		return nil, err
	}
	if len(plaintext) > kms.MaxRootPlaintext || len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("vault: encrypt %d bytes with %d of additional data: %w", len(plaintext), len(additionalData), kms.ErrUnsupported)
	}
	if err := r.prove(ctx, h); err != nil {
		return nil, err
	}
	ciphertext, err := r.encrypt(ctx, h.name, plaintext, additionalData)
	if vaultapi.Is(err, vaultapi.Refused) {
		return nil, r.refusedUse(ctx, h, "encrypt", err)
	}
	return ciphertext, err
}

// encrypt never makes a key. Transit makes one of a name that it does not know,
// if the token may; but not one for convergent encryption without a context,
// and for a key that it knows the field has no meaning.
func (r *Root) encrypt(ctx context.Context, name string, plaintext, additionalData []byte) ([]byte, error) {
	in := struct {
		Plaintext      []byte `json:"plaintext"`
		AssociatedData []byte `json:"associated_data,omitempty"`
		Convergent     bool   `json:"convergent_encryption"`
	}{plaintext, additionalData, true}
	if in.Plaintext == nil {
		in.Plaintext = []byte{} // not null
	}
	var out struct{ Ciphertext string }
	if err := r.api.Write(ctx, r.path("encrypt", name), in, &out); err != nil {
		return nil, failed("encrypt", err)
	}
	if !isCiphertext([]byte(out.Ciphertext)) {
		return nil, malformed("encrypt")
	}
	return []byte(out.Ciphertext), nil
}

// Decrypt opens what Encrypt made; see kms.Root. That a ciphertext is not
// authentic is said only if transit refuses it, and then opens the one that the
// handle carries: the key is the right one, and the server well.
func (r *Root) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	h, err := handleFor(handle, kms.Encryption)
	if err != nil {
		return nil, err
	}
	if !isCiphertext(ciphertext) || len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("vault: decrypt %d bytes with %d of additional data: %w", len(ciphertext), len(additionalData), kms.ErrCiphertext)
	}
	plaintext, err := r.decrypt(ctx, h.name, ciphertext, additionalData)
	if !vaultapi.Is(err, vaultapi.Refused) {
		return plaintext, err
	}
	if err := r.examine(ctx, h); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("vault: decrypt: %w", kms.ErrCiphertext)
}

func (r *Root) decrypt(ctx context.Context, name string, ciphertext, additionalData []byte) ([]byte, error) {
	in := struct {
		Ciphertext     string `json:"ciphertext"`
		AssociatedData []byte `json:"associated_data,omitempty"`
	}{string(ciphertext), additionalData}
	var out struct{ Plaintext *[]byte }
	if err := r.api.Write(ctx, r.path("decrypt", name), in, &out); err != nil {
		return nil, failed("decrypt", err)
	}
	if out.Plaintext == nil {
		return nil, malformed("decrypt")
	}
	return *out.Plaintext, nil
}

// MAC computes HMAC-SHA-256 in transit, with version 1 of the key, whatever its
// newest version is; see kms.Root. The check of the handle is computed in the
// same call, so that a MAC under another key of the same name is never returned.
func (r *Root) MAC(ctx context.Context, handle, message []byte) (mac [kms.MACSize]byte, err error) {
	if handle == nil {
		macs, err := r.macs(ctx, r.recordKey(), message)
		if vaultapi.Is(err, vaultapi.Refused) {
			return mac, r.refusedInit(ctx, r.recordKey(), err)
		}
		if err != nil {
			return mac, err
		}
		return macs[0], nil
	}
	h, err := handleFor(handle, kms.Authentication)
	if err != nil {
		return mac, err
	}
	macs, err := r.macs(ctx, h.name, message, checkData(h.id))
	if vaultapi.Is(err, vaultapi.Refused) {
		return mac, r.refusedUse(ctx, h, "hmac", err)
	}
	if err != nil {
		return mac, err
	}
	if string(macs[1][:]) != string(h.check) {
		return mac, fmt.Errorf("vault: hmac: the transit key %s is another one than the handle's: %w", h.name, kms.ErrCorrupt)
	}
	return macs[0], nil
}

// macVersion is the version of a transit key that MACs are made with. A MAC has
// to stay the same, also when an operator rotates the key.
const macVersion = 1

func (r *Root) macs(ctx context.Context, name string, messages ...[]byte) ([][kms.MACSize]byte, error) {
	type item struct {
		Input []byte `json:"input"`
	}
	in := struct {
		Algorithm string `json:"algorithm"`
		Version   int    `json:"key_version"`
		Batch     []item `json:"batch_input"`
	}{"sha2-256", macVersion, nil}
	for _, m := range messages {
		in.Batch = append(in.Batch, item{append([]byte{}, m...)})
	}
	var out struct {
		Results []struct{ HMAC string } `json:"batch_results"`
	}
	if err := r.api.Write(ctx, r.path("hmac", name), in, &out); err != nil {
		return nil, failed("hmac", err)
	}
	if len(out.Results) != len(messages) {
		return nil, malformed("hmac")
	}
	macs := make([][kms.MACSize]byte, len(messages))
	for i, result := range out.Results {
		v, ok := parseValue(result.HMAC)
		if !ok || v.version != macVersion || len(v.raw) != kms.MACSize {
			return nil, malformed("hmac")
		}
		macs[i] = [kms.MACSize]byte(v.raw)
	}
	return macs, nil
}

// Random fills b from the server's random source; see kms.Root.
func (r *Root) Random(ctx context.Context, b []byte) error {
	if len(b) > kms.MaxRandom {
		return fmt.Errorf("vault: %d random bytes at once: %w", len(b), kms.ErrUnsupported)
	}
	in := struct {
		Bytes  int    `json:"bytes"`
		Format string `json:"format"`
	}{max(len(b), 1), "base64"}
	var out struct {
		Random []byte `json:"random_bytes"`
	}
	if err := r.api.Write(ctx, r.cfg.Mount+"/random", in, &out); err != nil {
		return failed("random", err)
	}
	defer clear(out.Random)
	if len(out.Random) != in.Bytes {
		return malformed("random")
	}
	copy(b, out.Random)
	return nil
}
