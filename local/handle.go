package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/keygate/keygate/kms"
)

// A handle, version 1: the header, which is authenticated, and the wrapped key.
//
//	format   1 byte    1
//	purpose  1 byte
//	key id  16 bytes
//	salt    16 bytes   random: the wrapping key is derived with it
//	wrapped 60 bytes   AES-256-GCM: nonce 12, key 32, tag 16
const (
	handleFormat = 1
	purposeAt    = 1
	idAt         = 2
	saltAt       = idAt + 16
	wrappedAt    = saltAt + saltSize
	saltSize     = 16
	gcmOverhead  = 12 + 16
	handleSize   = wrappedAt + kms.KeySize + gcmOverhead
)

// wrap returns the handle of key.
func (r *Root) wrap(ctx context.Context, id kms.KeyID, purpose kms.Purpose, key []byte) ([]byte, error) {
	handle := make([]byte, wrappedAt, handleSize)
	handle[0], handle[purposeAt] = handleFormat, byte(purpose)
	copy(handle[idAt:], id[:])
	salt := handle[saltAt:]
	rand.Read(salt) // never fails: crypto/rand
	kek, err := r.derive(ctx, salt, infoWrap)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	gcm, err := newGCM(kek)
	if err != nil {
		return nil, err
	}
	return append(handle, gcm.Seal(nil, nil, key, handle)...), nil
}

// parseHandle checks the form of a handle and returns its purpose, or
// ErrCorrupt. That nobody changed it only unwrap tells.
func parseHandle(handle []byte) (kms.Purpose, error) {
	corrupt := func(text string) (kms.Purpose, error) {
		return 0, fmt.Errorf("local: key handle: %s: %w", text, kms.ErrCorrupt)
	}
	if len(handle) != handleSize {
		return corrupt(fmt.Sprintf("%d bytes, not %d", len(handle), handleSize))
	}
	if handle[0] != handleFormat {
		return corrupt(fmt.Sprintf("unknown format %d", handle[0]))
	}
	purpose := kms.Purpose(handle[purposeAt])
	if purpose != kms.Encryption && purpose != kms.Authentication {
		return corrupt(fmt.Sprintf("unknown purpose %d", purpose))
	}
	return purpose, nil
}

var errWrapped = errors.New("it is not authentic, or of another root key")

// unwrap returns the key of a handle, for the caller to wipe. A handle that was
// changed is ErrCorrupt, one for another purpose ErrUnsupported.
func (r *Root) unwrap(ctx context.Context, handle []byte, purpose kms.Purpose) ([]byte, error) {
	is, err := parseHandle(handle)
	if err != nil {
		return nil, err
	}
	kek, err := r.derive(ctx, handle[saltAt:wrappedAt], infoWrap)
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	gcm, err := newGCM(kek)
	if err != nil {
		return nil, err
	}
	key, err := gcm.Open(nil, nil, handle[wrappedAt:], handle[:wrappedAt])
	if err != nil {
		return nil, fmt.Errorf("local: key handle: %w: %w", errWrapped, kms.ErrCorrupt)
	}
	if is != purpose {
		clear(key)
		return nil, fmt.Errorf("local: a key for purpose %d used for %d: %w", is, purpose, kms.ErrUnsupported)
	}
	return key, nil
}
