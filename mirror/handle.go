package mirror

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keygate/keygate/kms"
)

// A keyHandle is a key as its record stores it: the handles that both roots gave
// it. Its bytes are
//
//	1    format, 1
//	1    purpose, 1 or 2
//	2+n  size of the first root's handle, and the handle
//	2+m  the same of the second
//	8    the first bytes of the SHA-256 hash of all before
//
// The hash finds damage, not forgery. Nobody who cannot use the record key can
// put a handle into a record, as records are authenticated.
type keyHandle struct {
	purpose kms.Purpose
	halves  [2][]byte
}

const (
	handleFormat = 1
	sumSize      = 8
)

// marshal returns the bytes of h, or ErrUnsupported if they are too many.
func (h keyHandle) marshal() ([]byte, error) {
	b := []byte{handleFormat, byte(h.purpose)}
	for _, half := range h.halves {
		b = appendSized(b, half)
	}
	b = appendSum(b)
	if len(b) > kms.MaxHandleSize {
		return nil, fmt.Errorf("mirror: the handles of both roots are %d bytes together, more than %d: %w", len(b), kms.MaxHandleSize, kms.ErrUnsupported)
	}
	return b, nil
}

// handleFor reads a handle that is used for purpose.
func handleFor(b []byte, purpose kms.Purpose) (keyHandle, error) {
	h, err := parseHandle(b)
	if err == nil && h.purpose != purpose {
		err = fmt.Errorf("mirror: a key for the purpose %d is used for %d: %w", h.purpose, purpose, kms.ErrUnsupported)
	}
	return h, err
}

// parseHandle is the inverse of marshal. It takes nothing else, and returns
// ErrCorrupt.
func parseHandle(b []byte) (keyHandle, error) {
	h, err := readHandle(b)
	if err != nil {
		return keyHandle{}, fmt.Errorf("mirror: key handle: %w: %w", err, kms.ErrCorrupt)
	}
	return h, nil
}

func readHandle(b []byte) (h keyHandle, err error) {
	if len(b) > kms.MaxHandleSize {
		return h, errors.New("too long")
	}
	b, ok := cutSum(b)
	if !ok || len(b) < 2 {
		return h, errors.New("damaged")
	}
	if b[0] != handleFormat {
		return h, fmt.Errorf("unknown format %d", b[0])
	}
	h.purpose = kms.Purpose(b[1])
	if h.purpose != kms.Encryption && h.purpose != kms.Authentication {
		return h, fmt.Errorf("unknown purpose %d", b[1])
	}
	b = b[2:]
	for i := range h.halves {
		if h.halves[i], b, ok = cutSized(b); !ok || len(h.halves[i]) == 0 {
			return h, errors.New("with parts of wrong sizes")
		}
	}
	if len(b) != 0 {
		return h, errors.New("with more than its parts")
	}
	// The caller may change its bytes while a root that is late still reads them.
	h.halves[0], h.halves[1] = bytes.Clone(h.halves[0]), bytes.Clone(h.halves[1])
	return h, nil
}

// appendSized appends the size of part, in two bytes, big endian, and part.
func appendSized(b, part []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(part)))
	return append(b, part...)
}

// cutSized cuts a part off that its size precedes.
func cutSized(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if len(b) < n {
		return nil, nil, false
	}
	return b[2:n:n], b[n:], true
}

// appendSum appends the first bytes of the SHA-256 hash of b.
func appendSum(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(b, sum[:sumSize]...)
}

// cutSum cuts off what appendSum appended, and reports whether it was that.
func cutSum(b []byte) ([]byte, bool) {
	n := len(b) - sumSize
	if n < 0 {
		return nil, false
	}
	sum := sha256.Sum256(b[:n])
	return b[:n:n], bytes.Equal(sum[:sumSize], b[n:])
}
