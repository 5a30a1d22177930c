package awskms

import (
	"context"
	"fmt"

	keygate "github.com/keygate/keygate/kms"
)

// A ciphertext of Encrypt, version 1:
//
//	format     1 byte    1, or 2 for a plaintext of no bytes, which KMS does not encrypt
//	checksum  16 bytes   of SHA-256 over the format, the handle and the blob
//	blob                 the CiphertextBlob of KMS
//
// The checksum is there so that what is damaged, or of another key, costs no call
// and takes nothing of the account's quota. Who can compute it gets the answer of
// KMS, which authenticates the blob.
const (
	formatData  = 1
	formatEmpty = 2
	blobAt      = 1 + checksumSize
)

// Encrypt encrypts in KMS; see kms.Root.
func (r *Root) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	h, err := forPurpose(handle, keygate.Encryption)
	if err != nil {
		return nil, err
	}
	if len(plaintext) > keygate.MaxRootPlaintext || len(additionalData) > keygate.MaxRootAD {
		return nil, fmt.Errorf("awskms: encrypt %d bytes with %d of additional data: %w", len(plaintext), len(additionalData), keygate.ErrUnsupported)
	}
	if err := r.begin(ctx, "encrypt"); err != nil {
		return nil, err
	}
	format, use := byte(formatData), useData
	if len(plaintext) == 0 {
		format, use, plaintext = formatEmpty, useEmpty, []byte{0}
	}
	blob, _, err := r.encrypt(ctx, inRegion(h.arn, r.region), plaintext, encryptionContext(use, h.owner(), additionalData))
	if err != nil {
		return nil, err
	}
	ciphertext := append(make([]byte, 0, blobAt+len(blob)), format)
	ciphertext = append(ciphertext, checksum([]byte{format}, handle, blob)...)
	return append(ciphertext, blob...), nil
}

// Decrypt opens what Encrypt made; see kms.Root.
func (r *Root) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	h, err := forPurpose(handle, keygate.Encryption)
	if err != nil {
		return nil, err
	}
	if err := r.begin(ctx, "decrypt"); err != nil {
		return nil, err
	}
	use, err := useOf(handle, ciphertext)
	if err == nil && len(additionalData) > keygate.MaxRootAD {
		err = fmt.Errorf("awskms: decrypt with %d bytes of additional data: %w", len(additionalData), keygate.ErrCiphertext)
	}
	if err != nil {
		return nil, err
	}
	plaintext, err := r.decrypt(ctx, inRegion(h.arn, r.region), ciphertext[blobAt:], encryptionContext(use, h.owner(), additionalData))
	if err != nil {
		return nil, err
	}
	if use == useEmpty {
		return []byte{}, nil
	}
	return plaintext, nil
}

// useOf returns the use that a ciphertext of handle was made for.
func useOf(handle, ciphertext []byte) (string, error) {
	if n := len(ciphertext); n <= blobAt || n > blobAt+maxBlob {
		return "", fmt.Errorf("awskms: decrypt %d bytes: %w", n, keygate.ErrCiphertext)
	}
	if string(checksum(ciphertext[:1], handle, ciphertext[blobAt:])) != string(ciphertext[1:blobAt]) {
		return "", fmt.Errorf("awskms: decrypt: damaged, or of another key: %w", keygate.ErrCiphertext)
	}
	switch ciphertext[0] {
	case formatData:
		return useData, nil
	case formatEmpty:
		return useEmpty, nil
	}
	return "", fmt.Errorf("awskms: decrypt: unknown format %d: %w", ciphertext[0], keygate.ErrCiphertext)
}
