// Package hsm is the root of trust over PKCS#11: a kms.Root whose keys are made
// in a token and leave it only wrapped by a KEK that cannot leave it.
//
// It is the only package with C in it. A root is a group of one or more tokens
// that hold the same root keys; see group. What is asked of a token is an op, and
// a backend does it: token, with the module in this process, or remote, with a token
// in a worker process. No call of the module runs on the goroutine of a caller, so
// that a call that hangs costs one session and not the caller; see pool. Whatever
// depends on the login belongs to a link, and after a fault the next call makes
// another one; see repair. What is done once, by commands, needs no Root: Init,
// PlanInit, Examine, BeginRotation, CopyRootKeys, UseKey; see alone.
package hsm

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/keygate/keygate/kms"
)

// A Root is a kms.Root in one PKCS#11 token, or in several that hold the same keys.
type Root struct {
	cfg   Config
	group *group
	close func() error // closes group, once

	wrongSignatures atomic.Uint64
}

var (
	_ kms.Root       = (*Root)(nil)
	_ kms.Degradable = (*Root)(nil)
)

// Format writes which tokens r has, whatever the verb, and not what r holds: the
// PIN may be in it.
func (r *Root) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "hsm.Root(%q)", r.cfg.Names()) }

// Open connects to the tokens that cfg names. It logs in to each, with one try, and
// refuses one that lacks a mechanism, a key that is missing, ambiguous or has an
// attribute that would let it out, a module that does not encrypt as it should, and
// a token whose root keys are not those of the others. Of several tokens one is
// enough, if the others are only out of reach: they are used when they come. A nil
// logger means slog.Default.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Root, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.Default()
	}
	g, err := openGroup(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	return &Root{cfg: cfg, group: g, close: sync.OnceValue(g.close)}, nil
}

// Close closes the sessions and, if this is the last root that uses them,
// finalizes the modules. It waits for the calls that run, but leaves those that
// hang, and the module with them, alone. Closing it again returns what that returned.
func (r *Root) Close() error { return r.close() }

// Token describes the first token that is connected and its module, as they were
// when the present connection was made.
func (r *Root) Token() TokenInfo {
	for _, t := range r.group.members {
		if info := t.info(); info != (TokenInfo{}) {
			return info
		}
	}
	return TokenInfo{}
}

// NewKey makes a key in the token; see kms.Root.
func (r *Root) NewKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose) ([]byte, error) {
	return r.makeKey(ctx, id, purpose, nil)
}

// ImportKey brings a key into the token; see kms.Root.
func (r *Root) ImportKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, key []byte) ([]byte, error) {
	if len(key) != kms.KeySize {
		return nil, fmt.Errorf("hsm: import a key of %d bytes: %w", len(key), kms.ErrKeySize)
	}
	return r.makeKey(ctx, id, purpose, key)
}

func (r *Root) makeKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, imported []byte) ([]byte, error) {
	if purpose != kms.Encryption && purpose != kms.Authentication {
		return nil, fmt.Errorf("hsm: purpose %d: %w", purpose, kms.ErrUnsupported)
	}
	return r.group.do(ctx, op{kind: opNewKey, id: id, purpose: purpose, a: imported})
}

// Encrypt encrypts in the token, with AES-256-GCM and a random IV of this
// process; see kms.Root. The ciphertext is the IV, of 12 bytes, what C_Encrypt
// returned, and the tag, of 16.
func (r *Root) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	if len(plaintext) > kms.MaxRootPlaintext || len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("hsm: encrypt %d bytes with %d of additional data: %w", len(plaintext), len(additionalData), kms.ErrUnsupported)
	}
	return r.group.do(ctx, op{kind: opEncrypt, handle: handle, purpose: kms.Encryption, a: plaintext, b: additionalData})
}

// Decrypt opens what Encrypt made; see kms.Root.
func (r *Root) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	if n := len(ciphertext) - ivSize - tagSize; n < 0 || n > kms.MaxRootPlaintext || len(additionalData) > kms.MaxRootAD {
		return nil, fmt.Errorf("hsm: decrypt %d bytes with %d of additional data: %w", len(ciphertext), len(additionalData), kms.ErrCiphertext)
	}
	return r.group.do(ctx, op{kind: opDecrypt, handle: handle, purpose: kms.Encryption, a: ciphertext, b: additionalData})
}

// MAC computes HMAC-SHA-256 in the token, with the record key if handle is nil;
// see kms.Root.
func (r *Root) MAC(ctx context.Context, handle, message []byte) (mac [kms.MACSize]byte, err error) {
	o := op{kind: opMAC, handle: handle, a: message}
	if handle != nil {
		o.purpose = kms.Authentication
	}
	got, err := r.group.do(ctx, o)
	if err != nil {
		return mac, err
	}
	copy(mac[:], got)
	return mac, nil
}

// Random fills b from the token's random source; see kms.Root.
func (r *Root) Random(ctx context.Context, b []byte) error {
	if len(b) > kms.MaxRandom {
		return fmt.Errorf("hsm: %d random bytes at once: %w", len(b), kms.ErrUnsupported)
	}
	random, err := r.group.do(ctx, op{kind: opRandom, size: len(b)})
	if err != nil {
		return err
	}
	defer clear(random)
	copy(b, random)
	return nil
}

// DestroyKey takes the key out of every token where it is loaded. The handle is
// the only other place that holds it; a key of residency token is destroyed. It
// returns ErrCorrupt if handle is not one of a root over PKCS#11.
func (r *Root) DestroyKey(ctx context.Context, handle []byte) error {
	if _, err := parseHandle(handle); err != nil {
		return err
	}
	return r.group.destroy(ctx, handle)
}

// Status uses the record key and, with an encryption and its inverse, a key
// that nothing else uses, of one token that works.
func (r *Root) Status(ctx context.Context) error {
	_, err := r.group.do(ctx, op{kind: opStatus})
	return err
}
