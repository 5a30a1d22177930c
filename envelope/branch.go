package envelope

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"strconv"
)

// wrapContext stands in the place of a client's context when a branch key is
// encrypted. The mode in the header keeps it apart from a direct body's.
const wrapContext = "keygate branch key v1"

// WrapAdditionalData returns what is authenticated with a branch key when the
// master key that h names encrypts it. h.Mode is Branch.
func WrapAdditionalData(h Header, cluster [16]byte) []byte {
	return AdditionalData(h, cluster, []byte(wrapContext))
}

// NewBranchAEAD returns AES-256-GCM under a branch key. Its Seal puts a random
// nonce in front of the ciphertext, so that one key is good for 2^32 calls of
// it (NIST SP 800-38D 8.3). It is safe for concurrent use.
func NewBranchAEAD(key *[KeySize]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("envelope: %w", err)
	}
	return aead, nil
}

// AppendBranch appends a whole ciphertext to dst: header, wrapped branch key,
// and plaintext encrypted with aead, which NewBranchAEAD made of that branch
// key. h.Mode is Branch, h.Version is not 0, wrapped has 1 to MaxWrapped bytes
// and plaintext has at most MaxPlaintext. Else it panics: the ciphertext could
// never be opened.
func AppendBranch(dst []byte, h Header, cluster [16]byte, wrapped []byte, aead cipher.AEAD, plaintext, context []byte) []byte {
	return AppendBranchOf(dst, h, wrapped, aead, plaintext, BranchAdditionalData(h, cluster, wrapped, context))
}

// AppendBranchOf is AppendBranch for many plaintexts of one context: its
// additional data is made once, by BranchAdditionalData of the same h and wrapped.
func AppendBranchOf(dst []byte, h Header, wrapped []byte, aead cipher.AEAD, plaintext, additionalData []byte) []byte {
	switch {
	case h.Mode != Branch || h.Version == 0:
		panic("envelope: not the header of a branch ciphertext")
	case len(wrapped) == 0 || len(wrapped) > MaxWrapped:
		panic("envelope: wrapped branch key of " + strconv.Itoa(len(wrapped)) + " bytes")
	case len(plaintext) > MaxPlaintext:
		panic("envelope: plaintext of " + strconv.Itoa(len(plaintext)) + " bytes")
	}
	dst = h.Append(dst)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(wrapped)))
	dst = append(dst, wrapped...)
	return aead.Seal(dst, nil, plaintext, additionalData)
}

// BranchSize returns the number of bytes of the ciphertext that AppendBranch
// appends, for a wrapped branch key and a plaintext of those sizes.
func BranchSize(wrapped, plaintext int) int {
	return HeaderSize + 2 + wrapped + nonceSize + plaintext + tagSize
}

// ParseBranch splits the body of a Branch ciphertext into the wrapped branch
// key and what is encrypted under it, both parts of body, or returns ErrFormat.
func ParseBranch(body []byte) (wrapped, sealed []byte, err error) {
	if len(body) < 2 {
		return nil, nil, fmt.Errorf("%w: branch body of %d bytes", ErrFormat, len(body))
	}
	n := int(binary.BigEndian.Uint16(body))
	body = body[2:]
	if n == 0 || n > MaxWrapped || len(body) < n+nonceSize+tagSize {
		return nil, nil, fmt.Errorf("%w: branch body too short", ErrFormat)
	}
	return body[:n:n], body[n:], nil
}

// OpenBranch appends the plaintext of sealed, which ParseBranch returned, to
// dst, or returns ErrAuth.
func OpenBranch(dst []byte, h Header, cluster [16]byte, wrapped []byte, aead cipher.AEAD, sealed, context []byte) ([]byte, error) {
	plaintext, err := aead.Open(dst, nil, sealed, BranchAdditionalData(h, cluster, wrapped, context))
	if err != nil {
		return nil, ErrAuth
	}
	return plaintext, nil
}

// BranchAdditionalData returns what is authenticated with a plaintext that is
// encrypted under a branch key. It is no secret. It ends in the wrapped branch key, so that a ciphertext is
// bound to the one that it carries.
func BranchAdditionalData(h Header, cluster [16]byte, wrapped, context []byte) []byte {
	ad := make([]byte, 0, AdditionalDataSize+len(wrapped))
	return append(appendAdditionalData(ad, h, cluster, context), wrapped...)
}
