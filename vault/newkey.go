package vault

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/vault/vaultapi"
)

// NewKey makes a transit key; see kms.Root.
func (r *Root) NewKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose) ([]byte, error) {
	return r.makeKey(ctx, id, purpose, nil)
}

// ImportKey brings a key into transit, wrapped by transit's own wrapping key;
// see kms.Root. It cannot be rotated there.
func (r *Root) ImportKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, key []byte) ([]byte, error) {
	if len(key) != kms.KeySize {
		return nil, fmt.Errorf("vault: import a key of %d bytes: %w", len(key), kms.ErrKeySize)
	}
	return r.makeKey(ctx, id, purpose, key)
}

func (r *Root) makeKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, imported []byte) ([]byte, error) {
	if purpose != kms.Encryption && purpose != kms.Authentication {
		return nil, fmt.Errorf("vault: purpose %d: %w", purpose, kms.ErrUnsupported)
	}
	h := keyHandle{purpose: purpose, id: id, name: newName(r.cfg.Prefix, id)}
	if err := r.makeTransitKey(ctx, h, imported); err != nil {
		r.discard(ctx, h.name)
		return nil, err
	}
	h, err := r.tryKey(ctx, h, imported)
	if err != nil {
		r.discard(ctx, h.name)
		return nil, err
	}
	return h.marshal(), nil
}

func (r *Root) makeTransitKey(ctx context.Context, h keyHandle, imported []byte) error {
	if imported != nil {
		return r.importTransitKey(ctx, h, imported)
	}
	return r.create(ctx, h.name, h.purpose)
}

// importTransitKey follows
// https://developer.hashicorp.com/vault/docs/secrets/transit#bring-your-own-key-byok:
// the key is wrapped by an AES-256 key that is used once, and that one by the
// engine's RSA key.
func (r *Root) importTransitKey(ctx context.Context, h keyHandle, key []byte) error {
	wrapping, err := r.wrappingKey(ctx)
	if err != nil {
		return err
	}
	ephemeral := make([]byte, 32)
	defer clear(ephemeral)
	rand.Read(ephemeral)
	wrappedEphemeral, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, wrapping, ephemeral, nil)
	if err != nil {
		return fmt.Errorf("vault: import: %w: %w", kms.ErrUnavailable, err)
	}
	wrappedKey, err := wrapPadded(ephemeral, key)
	if err != nil {
		return fmt.Errorf("vault: import: %w: %w", kms.ErrUnavailable, err)
	}
	in := map[string]any{
		"type": typeOf(h.purpose), "ciphertext": append(wrappedEphemeral, wrappedKey...), "hash_function": "SHA256",
		"allow_rotation": false, "derived": false, "exportable": false, "allow_plaintext_backup": false,
	}
	// Once: to import a second time is an error.
	if err := r.api.WriteOnce(ctx, r.path("keys", h.name)+"/import", in, nil); err != nil {
		return failed("import key "+h.name, err)
	}
	return nil
}

// wrappingKey returns the engine's public key, of RSA and 4096 bits.
func (r *Root) wrappingKey(ctx context.Context) (*rsa.PublicKey, error) {
	var out struct {
		PublicKey string `json:"public_key"`
	}
	if err := r.api.Read(ctx, r.cfg.Mount+"/wrapping_key", &out); err != nil {
		if e, ok := errors.AsType[*vaultapi.Error](err); ok && e.Status == http.StatusNotFound && strings.Contains(strings.Join(e.Texts, " "), "unsupported path") {
			return nil, fmt.Errorf("vault: import: this version of the server, older than Vault 1.11, takes no keys: %w: %w", kms.ErrUnsupported, err)
		}
		return nil, failed("read wrapping_key", err)
	}
	block, _ := pem.Decode([]byte(out.PublicKey))
	if block == nil {
		return nil, malformed("read wrapping_key")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	key, ok := public.(*rsa.PublicKey)
	if err != nil || !ok || key.N.BitLen() < 2048 {
		return nil, malformed("read wrapping_key")
	}
	return key, nil
}

// tryKey uses a new key once, and returns its handle with the check in it.
func (r *Root) tryKey(ctx context.Context, h keyHandle, imported []byte) (keyHandle, error) {
	k, err := r.lookUp(ctx, h)
	if err != nil {
		return h, err
	}
	if k.Latest != 1 {
		return h, malformed("make key " + h.name)
	}
	if h.purpose == kms.Authentication {
		return r.tryAuthentication(ctx, h, imported)
	}
	h, err = r.tryEncryption(ctx, h, imported)
	if err == nil {
		r.noteProved(h)
	}
	return h, err
}

// tryEncryption also proves that the server binds additional data. One that is
// too old to know of it ignores the field.
func (r *Root) tryEncryption(ctx context.Context, h keyHandle, imported []byte) (keyHandle, error) {
	var err error
	additionalData := checkData(h.id)
	if h.check, err = r.encrypt(ctx, h.name, nil, additionalData); err != nil {
		return h, err
	}
	if err := opens(h.check, additionalData, imported); err != nil {
		return h, err
	}
	plaintext, err := r.decrypt(ctx, h.name, h.check, additionalData)
	if err != nil {
		return h, err
	}
	if len(plaintext) != 0 {
		return h, malformed("decrypt")
	}
	_, err = r.decrypt(ctx, h.name, h.check, nil)
	if err == nil {
		return h, fmt.Errorf("vault: the server does not bind associated_data: %w", kms.ErrUnsupported)
	}
	if !vaultapi.Is(err, vaultapi.Refused) {
		return h, err
	}
	return h, nil
}

// opens checks that a ciphertext of nothing was made with an imported key: by
// opening it here.
func opens(ciphertext, additionalData, imported []byte) error {
	v, ok := parseValue(string(ciphertext))
	if !ok || v.version != 1 || len(v.raw) != ivSize+tagSize {
		return malformed("encrypt")
	}
	if imported == nil {
		return nil
	}
	block, err := aes.NewCipher(imported)
	if err != nil {
		return fmt.Errorf("vault: import: %w: %w", kms.ErrUnavailable, err)
	}
	// It takes the nonce from before the ciphertext, where transit has it, and
	// is allowed in FIPS 140-3 mode.
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return fmt.Errorf("vault: import: %w: %w", kms.ErrUnavailable, err)
	}
	if _, err := aead.Open(nil, nil, v.raw, additionalData); err != nil {
		return fmt.Errorf("vault: import: the server uses another key than the one that was imported: %w", kms.ErrUnavailable)
	}
	return nil
}

func (r *Root) tryAuthentication(ctx context.Context, h keyHandle, imported []byte) (keyHandle, error) {
	macs, err := r.macs(ctx, h.name, checkData(h.id))
	if err != nil {
		return h, err
	}
	h.check = macs[0][:]
	if imported == nil {
		return h, nil
	}
	own := hmac.New(sha256.New, imported)
	own.Write(checkData(h.id))
	if !hmac.Equal(own.Sum(nil), h.check) {
		return h, fmt.Errorf("vault: import: the server's HMAC is not that of the imported key: %w", kms.ErrUnsupported)
	}
	return h, nil
}

// discardTime bounds the removal of a key that was made in vain.
const discardTime = 5 * time.Second

// discard removes a key that no one has the handle of, as far as that is
// possible now: what stays is of no use to anyone.
func (r *Root) discard(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardTime)
	defer cancel()
	r.destroy(ctx, name)
}

// DestroyKey deletes the transit key, which needs its deletion to be allowed
// first; see kms.Root. It touches no key without the prefix of this root.
func (r *Root) DestroyKey(ctx context.Context, handle []byte) error {
	h, err := parseHandle(handle)
	if err != nil {
		return err
	}
	// The root's own two keys have no handle; to be sure, nothing as short as
	// their names is deleted.
	if rest, ok := strings.CutPrefix(h.name, r.cfg.Prefix); !ok || len(rest) < 32 {
		return fmt.Errorf("vault: the transit key %s does not begin with the prefix %s: %w", h.name, r.cfg.Prefix, kms.ErrDenied)
	}
	return r.destroy(ctx, h.name)
}

func (r *Root) destroy(ctx context.Context, name string) error {
	r.forget(name)
	err := r.api.Write(ctx, r.path("keys", name)+"/config", map[string]any{"deletion_allowed": true}, nil)
	if err == nil {
		err = r.api.Delete(ctx, r.path("keys", name))
	}
	if err == nil {
		return nil
	}
	if r.gone(ctx, name) {
		return nil
	}
	return failed("destroy key "+name, err)
}

// gone reports whether it is sure that a transit key is not there, and that this
// is the root's mount.
func (r *Root) gone(ctx context.Context, name string) bool {
	if _, err := r.info(ctx, name); !vaultapi.Is(err, vaultapi.Absent) {
		return false
	}
	_, err := r.info(ctx, r.recordKey())
	return err == nil
}
