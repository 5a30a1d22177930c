// Package local is a root of trust whose root key is in a file: for laptops
// without a token, and for tests. Whoever reads the file, or the memory of this
// process, has all master keys; a root of trust in hardware is there so that
// nobody can.
//
// The root key itself encrypts nothing. From it are derived (HKDF, RFC 5869) the
// record key and, with a random salt that is in the handle, one wrapping key for
// each master key, which wraps that one key and no other: no count of nonces has
// to be kept for them (NIST SP 800-38D 8.3). Operations of master keys are
// counted by package kms.
package local

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/keygate/keygate/kms"
)

// Config says where the root key is.
type Config struct {
	// File is the file of the root key, made by Init. It must belong to the user
	// of this process, and no other may read or write it. Required.
	File string `yaml:"file"`
}

// Check reports what is wrong with c, without looking at the file.
func (c Config) Check() error {
	if c.File == "" {
		return errors.New("local: file: the path of the root key is missing")
	}
	return nil
}

// A Root is a kms.Root in a file. Make one with Open.
type Root struct {
	file string

	mu  sync.RWMutex
	key []byte // nil once closed
}

var _ kms.Root = (*Root)(nil)

// Format writes which file r is from, whatever the verb, and not the key.
func (r *Root) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "local.Root(%q)", r.file) }

// Open reads the root key. It refuses a file that others may read or write, that
// is another user's, or that is not what Init wrote.
func Open(cfg Config) (*Root, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	key, err := readKey(cfg.File)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: keygate root init makes it", err)
		}
		return nil, fmt.Errorf("local: root key: %w", err)
	}
	return &Root{file: cfg.File, key: key}, nil
}

// Close wipes the root key. Calls after it return kms.ErrUnavailable.
func (r *Root) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.key)
	r.key = nil
	return nil
}

// What is derived from the root key: the info of HKDF. A new use gets a new one.
const (
	infoWrap   = "keygate local 1 wrapping key"
	infoRecord = "keygate local 1 record key"
)

// derive returns a key of kms.KeySize bytes, for the caller to wipe.
func (r *Root) derive(ctx context.Context, salt []byte, info string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("local: %w: %w", kms.ErrUnavailable, err)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.key == nil {
		return nil, fmt.Errorf("local: %w: the root is closed", kms.ErrUnavailable)
	}
	key, err := hkdf.Key(sha256.New, r.key, salt, info, kms.KeySize)
	if err != nil {
		return nil, fmt.Errorf("local: %w: %w", kms.ErrUnavailable, err)
	}
	return key, nil
}

// NewKey makes a random key; see kms.Root.
func (r *Root) NewKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose) ([]byte, error) {
	key := make([]byte, kms.KeySize)
	rand.Read(key) // never fails: crypto/rand
	defer clear(key)
	return r.ImportKey(ctx, id, purpose, key)
}

// ImportKey wraps key; see kms.Root.
func (r *Root) ImportKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, key []byte) ([]byte, error) {
	if len(key) != kms.KeySize {
		return nil, fmt.Errorf("local: import a key of %d bytes: %w", len(key), kms.ErrKeySize)
	}
	if purpose != kms.Encryption && purpose != kms.Authentication {
		return nil, fmt.Errorf("local: purpose %d: %w", purpose, kms.ErrUnsupported)
	}
	handle, err := r.wrap(ctx, id, purpose, key)
	if err != nil {
		return nil, err
	}
	back, err := r.unwrap(ctx, handle, purpose)
	if err != nil {
		return nil, err
	}
	defer clear(back)
	if !bytes.Equal(back, key) {
		return nil, fmt.Errorf("local: %w: a wrapped key unwraps to another", kms.ErrUnavailable)
	}
	return handle, nil
}

// Encrypt encrypts with AES-256-GCM and a random nonce; see kms.Root. The
// ciphertext is the nonce, of 12 bytes, the encrypted plaintext, and the tag, of
// 16.
func (r *Root) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	key, err := r.unwrap(ctx, handle, kms.Encryption)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	if len(plaintext) > kms.MaxRootPlaintext || len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("local: encrypt %d bytes with %d of additional data: %w", len(plaintext), len(additionalData), kms.ErrUnsupported)
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	return gcm.Seal(nil, nil, plaintext, additionalData), nil
}

// Decrypt opens what Encrypt made; see kms.Root.
func (r *Root) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	key, err := r.unwrap(ctx, handle, kms.Encryption)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	gcm, err := newGCM(key)
	if err != nil {
		return nil, err
	}
	if len(ciphertext) > kms.MaxRootPlaintext+gcm.Overhead() || len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("local: decrypt %d bytes with %d of additional data: %w", len(ciphertext), len(additionalData), kms.ErrCiphertext)
	}
	plaintext, err := gcm.Open(nil, nil, ciphertext, additionalData)
	if err != nil {
		return nil, fmt.Errorf("local: decrypt: %w", kms.ErrCiphertext)
	}
	return plaintext, nil
}

// newGCM returns AES-256-GCM that makes its nonces itself, as FIPS 140-3 mode
// requires.
func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("local: %w: %w", kms.ErrUnavailable, err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("local: %w: %w", kms.ErrUnavailable, err)
	}
	return gcm, nil
}

// MAC computes HMAC-SHA-256, with the record key if handle is nil; see kms.Root.
func (r *Root) MAC(ctx context.Context, handle, message []byte) (sum [kms.MACSize]byte, err error) {
	key, err := r.macKey(ctx, handle)
	if err != nil {
		return sum, err
	}
	defer clear(key)
	h := hmac.New(sha256.New, key)
	h.Write(message)
	h.Sum(sum[:0])
	return sum, nil
}

func (r *Root) macKey(ctx context.Context, handle []byte) ([]byte, error) {
	if handle == nil {
		return r.derive(ctx, nil, infoRecord)
	}
	return r.unwrap(ctx, handle, kms.Authentication)
}

// Random fills b from the random source of the system; see kms.Root.
func (r *Root) Random(ctx context.Context, b []byte) error {
	if len(b) > kms.MaxRandom {
		return fmt.Errorf("local: %d random bytes at once: %w", len(b), kms.ErrUnsupported)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("local: %w: %w", kms.ErrUnavailable, err)
	}
	rand.Read(b) // never fails: crypto/rand
	return nil
}

// DestroyKey does nothing: the handle is the only place that holds the key.
func (r *Root) DestroyKey(_ context.Context, handle []byte) error {
	_, err := parseHandle(handle)
	return err
}

// Status wraps a key, and encrypts and decrypts with it.
func (r *Root) Status(ctx context.Context) error {
	handle, err := r.NewKey(ctx, kms.KeyID{}, kms.Encryption)
	if err != nil {
		return err
	}
	ciphertext, err := r.Encrypt(ctx, handle, []byte("status"), nil)
	if err != nil {
		return err
	}
	plaintext, err := r.Decrypt(ctx, handle, ciphertext, nil)
	if err == nil && string(plaintext) != "status" {
		err = fmt.Errorf("local: %w: it decrypts to something else", kms.ErrUnavailable)
	}
	return err
}
