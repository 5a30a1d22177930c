package kms

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/keygate/keygate/envelope"
)

// DataKeySize is the bytes in a data encryption key that GenerateDataKey makes.
const DataKeySize = 32

// GenerateDataKey makes a random DEK and returns it together with its
// ciphertext, which Decrypt opens only with the same additional data. The
// caller wipes plaintext.
func (k *KMS) GenerateDataKey(ctx context.Context, name string, additionalData []byte) (plaintext, ciphertext []byte, use Use, err error) {
	plaintext = make([]byte, DataKeySize)
	rand.Read(plaintext)
	ciphertext, use, err = k.Encrypt(ctx, name, plaintext, additionalData)
	if err != nil {
		clear(plaintext)
		return nil, nil, use, err
	}
	return plaintext, ciphertext, use, nil
}

// GenerateDataKeyWithoutPlaintext makes a random DEK for use elsewhere and
// later, and returns its ciphertext only.
func (k *KMS) GenerateDataKeyWithoutPlaintext(ctx context.Context, name string, additionalData []byte) (ciphertext []byte, use Use, err error) {
	plaintext, ciphertext, use, err := k.GenerateDataKey(ctx, name, additionalData)
	clear(plaintext)
	return ciphertext, use, err
}

// Encrypt encrypts plaintext, of up to envelope.MaxPlaintext bytes, with the newest version of the key,
// and authenticates additionalData with it. The caller wipes plaintext.
func (k *KMS) Encrypt(ctx context.Context, name string, plaintext, additionalData []byte) (ciphertext []byte, use Use, err error) {
	if len(plaintext) > envelope.MaxPlaintext {
		return nil, use, fmt.Errorf("%w: plaintext of %d bytes", ErrUnsupported, len(plaintext))
	}
	r, err := k.lookup(ctx, name)
	if err != nil {
		return nil, use, err
	}
	v := r.newest()
	use = Use{KeyID: r.ID, Version: v.Number, Mode: k.mode(r)}
	if err := r.usable(); err != nil {
		return nil, use, err
	}
	h := envelope.Header{Mode: use.Mode, KeyID: r.ID, Version: v.Number}
	switch {
	case use.Mode == envelope.Branch:
		ciphertext, use.Outage, err = k.sealBranch(ctx, r, plaintext, additionalData)
	case len(plaintext) > MaxRootPlaintext:
		ciphertext, err = k.sealLarge(ctx, r, h, v, plaintext, additionalData)
	default:
		if err = k.spend(ctx, r, 1); err == nil {
			ciphertext, err = k.sealDirect(ctx, h, v, plaintext, envelope.AdditionalData(h, k.cfg.Cluster, additionalData))
		}
	}
	return ciphertext, use, err
}

func (k *KMS) sealBranch(ctx context.Context, r *record, plaintext, additionalData []byte) (ciphertext []byte, outage bool, err error) {
	b, outage, err := k.sealing(ctx, r, k.opened.epoch.Load(), 1)
	if err != nil {
		return nil, false, err
	}
	return b.seal(k.cfg.Cluster, plaintext, additionalData), outage, nil
}

// sealDirect does one operation, which the caller has spent.
func (k *KMS) sealDirect(ctx context.Context, h envelope.Header, v version, plaintext, additionalData []byte) ([]byte, error) {
	body, err := k.rootEncrypt(ctx, v.Handle, plaintext, additionalData)
	if err != nil {
		return nil, err
	}
	return append(h.Append(make([]byte, 0, envelope.HeaderSize+len(body))), body...), nil
}

// sealLarge encrypts what is too large for the root with a branch key that is
// used this once, so that in direct mode, too, each ciphertext costs a call of
// the root.
func (k *KMS) sealLarge(ctx context.Context, r *record, h envelope.Header, v version, plaintext, additionalData []byte) ([]byte, error) {
	if err := k.spend(ctx, r, 1); err != nil {
		return nil, err
	}
	h.Mode = envelope.Branch
	key := make([]byte, KeySize)
	rand.Read(key)
	defer clear(key)
	wrapped, err := k.rootEncrypt(ctx, v.Handle, key, envelope.WrapAdditionalData(h, k.cfg.Cluster))
	if err != nil {
		return nil, err
	}
	b, err := k.newBranch(h, wrapped, key, 0)
	if err != nil {
		return nil, err
	}
	return b.seal(k.cfg.Cluster, plaintext, additionalData), nil
}

// Decrypt opens a ciphertext of GenerateDataKey or Encrypt, with the one key
// version that its header names, or one that KES made under an imported key. It
// returns ErrCiphertext unless key, additional data and every bit are right.
// The caller wipes plaintext.
func (k *KMS) Decrypt(ctx context.Context, name string, ciphertext, additionalData []byte) (plaintext []byte, use Use, err error) {
	r, err := k.lookup(ctx, name)
	if err != nil {
		return nil, use, err
	}
	use.KeyID = r.ID
	if err := r.usable(); err != nil {
		return nil, use, err
	}
	h, body, err := envelope.Parse(ciphertext)
	if err != nil || h.KeyID != r.ID {
		plaintext, err = k.openKES(ctx, r, ciphertext, additionalData)
		return plaintext, use, err
	}
	use.Version, use.Mode = h.Version, h.Mode
	v, err := r.versionOf(h)
	if err != nil {
		return nil, use, err
	}
	if h.Mode == envelope.Branch {
		plaintext, use.Outage, err = k.openBranch(ctx, r, h, v, body, additionalData)
	} else {
		plaintext, err = k.openDirect(ctx, h, v, body, additionalData)
	}
	return plaintext, use, err
}

func (r *record) versionOf(h envelope.Header) (version, error) {
	v, ok := r.version(h.Version)
	if !ok {
		return v, fmt.Errorf("%w: the key has no version %d", ErrCiphertext, h.Version)
	}
	return v, nil
}

func (k *KMS) openDirect(ctx context.Context, h envelope.Header, v version, body, additionalData []byte) ([]byte, error) {
	return k.rootDecrypt(ctx, v.Handle, body, envelope.AdditionalData(h, k.cfg.Cluster, additionalData))
}

func (k *KMS) openBranch(ctx context.Context, r *record, h envelope.Header, v version, body, additionalData []byte) (plaintext []byte, outage bool, err error) {
	wrapped, sealed, err := envelope.ParseBranch(body)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrCiphertext, err)
	}
	b, outage, err := k.opening(ctx, r, k.opened.epoch.Load(), h, v, wrapped)
	if err != nil {
		return nil, false, err
	}
	plaintext, err = envelope.OpenBranch(nil, h, k.cfg.Cluster, wrapped, b.aead, sealed, additionalData)
	if err != nil {
		return nil, outage, fmt.Errorf("%w: %w", ErrCiphertext, err)
	}
	return plaintext, outage, nil
}

// openKES opens a ciphertext of KES: its key is HMAC-SHA-256(master key, iv),
// which the root computes, so that the master key stays there.
func (k *KMS) openKES(ctx context.Context, r *record, ciphertext, additionalData []byte) ([]byte, error) {
	c, err := r.parseKES(ciphertext)
	if err != nil {
		return nil, err
	}
	subkey, err := k.root.MAC(ctx, r.KESHandle, c.IV[:])
	if err != nil {
		return nil, k.rootError(err)
	}
	defer clear(subkey[:])
	plaintext, err := envelope.OpenKES(c, &subkey, additionalData)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCiphertext, err)
	}
	return plaintext, nil
}

// parseKES reads what may be a ciphertext of KES under an imported key. All else,
// ciphertexts of other keys too, is ErrCiphertext.
func (r *record) parseKES(ciphertext []byte) (c envelope.KES, err error) {
	if r.KESHandle == nil {
		return c, fmt.Errorf("%w: it was not made under this key", ErrCiphertext)
	}
	c, err = envelope.ParseKES(ciphertext)
	if err != nil {
		return c, fmt.Errorf("%w: %w", ErrCiphertext, err)
	}
	return c, nil
}

// MAC returns HMAC-SHA-256 of message under a key of its own that belongs to
// the named key and stays the same for all its versions.
func (k *KMS) MAC(ctx context.Context, name string, message []byte) (mac [MACSize]byte, use Use, err error) {
	r, err := k.lookup(ctx, name)
	if err != nil {
		return mac, use, err
	}
	use.KeyID = r.ID
	if err := r.usable(); err != nil {
		return mac, use, err
	}
	if r.MACHandle == nil {
		return mac, use, ErrNoMAC
	}
	mac, err = k.root.MAC(ctx, r.MACHandle, message)
	if err != nil {
		return mac, use, k.rootError(err)
	}
	k.rootAnswered()
	return mac, use, nil
}
