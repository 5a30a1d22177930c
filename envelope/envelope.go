// Package envelope holds the formats of ciphertexts: keygate's own, and, to be
// read only, those of KES. docs/ciphertext.md shows them byte by byte.
//
// The package does arithmetic, not key management: it is given keys and says
// which key a ciphertext names.
package envelope

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes in bytes.
const (
	HeaderSize         = 24 // of Header.Append
	AdditionalDataSize = 72 // of AdditionalData
	KeySize            = 32 // of a branch key
	nonceSize          = 12 // NIST SP 800-38D 8.2.2
	tagSize            = 16 // NIST SP 800-38D 5.2.1.2, the largest
)

// Limits in bytes. The largest ciphertext that can be made is parsed.
const (
	MaxSize      = 2 << 20 // of a ciphertext that is parsed
	MaxPlaintext = 1 << 20 // of a plaintext that AppendBranch takes
	MaxWrapped   = 4096    // of a wrapped branch key
)

const (
	magic         = "KG"
	formatVersion = 1
)

// The errors of this package. A client is told the same for each of them: that
// its ciphertext is not authentic.
var (
	// ErrFormat is returned by the functions that parse: the bytes are not a
	// ciphertext of the format. No key was tried.
	ErrFormat = errors.New("envelope: malformed ciphertext")
	// ErrUnsupported is returned by ParseKES: KES made the ciphertext with
	// ChaCha20-Poly1305, which FIPS 140-3 does not approve.
	ErrUnsupported = errors.New("envelope: algorithm is not supported")
	// ErrAuth is returned by the functions that open: key, additional data or
	// ciphertext is not what it was. It does not say which.
	ErrAuth = errors.New("envelope: ciphertext is not authentic")
)

// A Mode says what encrypted a body: the root of trust, or a branch key.
type Mode uint8

const (
	// Direct bodies were encrypted by the master key inside the root of trust.
	Direct Mode = 1
	// Branch bodies were encrypted in memory by a branch key, which the body
	// carries, encrypted by the master key.
	Branch Mode = 2
)

// String returns "direct" or "branch", and "" for the zero Mode.
func (m Mode) String() string {
	switch m {
	case 0:
		return ""
	case Direct:
		return "direct"
	case Branch:
		return "branch"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// ParseMode reads "direct" and "branch".
func ParseMode(s string) (Mode, error) {
	switch s {
	case "direct":
		return Direct, nil
	case "branch":
		return Branch, nil
	}
	return 0, fmt.Errorf("envelope: mode is %q, neither direct nor branch", s)
}

// A Header names the one key that opens a ciphertext.
type Header struct {
	Mode    Mode
	KeyID   [16]byte
	Version uint32 // of the key, 1 or more
}

// Append appends the HeaderSize bytes of the header to dst.
func (h Header) Append(dst []byte) []byte {
	dst = append(dst, magic...)
	dst = append(dst, formatVersion, byte(h.Mode))
	dst = append(dst, h.KeyID[:]...)
	return binary.BigEndian.AppendUint32(dst, h.Version)
}

// Parse splits a ciphertext into its header and its body, a part of
// ciphertext. Whatever is not exactly of the format is ErrFormat.
func Parse(ciphertext []byte) (h Header, body []byte, err error) {
	switch {
	case len(ciphertext) <= HeaderSize || len(ciphertext) > MaxSize:
		return h, nil, fmt.Errorf("%w: %d bytes", ErrFormat, len(ciphertext))
	case string(ciphertext[:2]) != magic:
		return h, nil, fmt.Errorf("%w: no magic", ErrFormat)
	case ciphertext[2] != formatVersion:
		return h, nil, fmt.Errorf("%w: format version %d", ErrFormat, ciphertext[2])
	}
	h.Mode = Mode(ciphertext[3])
	copy(h.KeyID[:], ciphertext[4:20])
	h.Version = binary.BigEndian.Uint32(ciphertext[20:24])
	if h.Mode != Direct && h.Mode != Branch {
		return Header{}, nil, fmt.Errorf("%w: mode %d", ErrFormat, ciphertext[3])
	}
	if h.Version == 0 {
		return Header{}, nil, fmt.Errorf("%w: key version 0", ErrFormat)
	}
	return h, ciphertext[HeaderSize:], nil
}

// AdditionalData returns what is authenticated with every plaintext: the
// header, the cluster and the SHA-256 hash of the client's context. It is the
// hash so that what a root of trust is given has one size, whatever the
// context's, and so that no context reaches a root's own log. An empty and an
// absent context are the same.
func AdditionalData(h Header, cluster [16]byte, context []byte) []byte {
	return appendAdditionalData(make([]byte, 0, AdditionalDataSize), h, cluster, context)
}

func appendAdditionalData(dst []byte, h Header, cluster [16]byte, context []byte) []byte {
	dst = h.Append(dst)
	dst = append(dst, cluster[:]...)
	sum := sha256.Sum256(context)
	return append(dst, sum[:]...)
}
