package vault

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/keygate/keygate/kms"
)

// A keyHandle is a master key as its record stores it: the name of a transit
// key, and what that key answers. Its bytes are
//
//	1   format, 1
//	1   purpose, 1 or 2
//	16  key id
//	1   size of the name
//	n   name of the transit key
//	1   size of the check
//	c   check
//	8   the first bytes of the SHA-256 hash of all before
//
// The check of an Encryption key is a ciphertext of nothing, as Vault writes it,
// that of an Authentication key an HMAC of 32 bytes; both of version 1 of the
// transit key, and both cover the key id. They prove that a transit key is the
// one that the handle was made for: an operator can delete one and make another
// of its name.
//
// The hash finds damage, not forgery. Nobody who cannot use the record key can
// put a handle into a record, as records are authenticated.
type keyHandle struct {
	purpose kms.Purpose
	id      kms.KeyID
	name    string
	check   []byte
}

const (
	handleFormat  = 1
	handleFixed   = 2 + 16 + 1
	sumSize       = 8
	maxName       = maxPrefix + 32 + 1 + 16
	checkConstant = "keygate key check"
)

// checkData is what the check covers: a constant, so that it is no ciphertext
// or MAC of anything else, and the key id.
func checkData(id kms.KeyID) []byte { return append([]byte(checkConstant), id[:]...) }

// newName returns a name that no other key has: 64 random bits after the id,
// which itself is random.
func newName(prefix string, id kms.KeyID) string {
	var b [8]byte
	rand.Read(b[:])
	return prefix + id.String() + "-" + hex.EncodeToString(b[:])
}

func (h keyHandle) marshal() []byte {
	b := make([]byte, 0, handleFixed+len(h.name)+1+len(h.check)+sumSize)
	b = append(b, handleFormat, byte(h.purpose))
	b = append(b, h.id[:]...)
	b = append(b, byte(len(h.name)))
	b = append(b, h.name...)
	b = append(b, byte(len(h.check)))
	b = append(b, h.check...)
	sum := sha256.Sum256(b)
	return append(b, sum[:sumSize]...)
}

// parseHandle is the inverse of marshal. It takes nothing else, and returns
// ErrCorrupt.
func parseHandle(b []byte) (keyHandle, error) {
	h, err := readHandle(b)
	if err != nil {
		return keyHandle{}, fmt.Errorf("vault: key handle: %w: %w", err, kms.ErrCorrupt)
	}
	return h, nil
}

func readHandle(b []byte) (h keyHandle, err error) {
	if len(b) < handleFixed+1+sumSize || len(b) > kms.MaxHandleSize {
		return h, errors.New("of a wrong size")
	}
	body := b[:len(b)-sumSize]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:sumSize], b[len(body):]) {
		return h, errors.New("damaged")
	}
	if body[0] != handleFormat {
		return h, fmt.Errorf("unknown format %d", body[0])
	}
	h.purpose = kms.Purpose(body[1])
	if h.purpose != kms.Encryption && h.purpose != kms.Authentication {
		return h, fmt.Errorf("unknown purpose %d", body[1])
	}
	copy(h.id[:], body[2:])
	name, rest, ok := sized(body[18:])
	check, rest, ok2 := sized(rest)
	if !ok || !ok2 || len(rest) != 0 {
		return h, errors.New("with parts of wrong sizes")
	}
	// The name becomes part of a path.
	if len(name) == 0 || len(name) > maxName || strings.Trim(string(name), nameBytes) != "" {
		return h, errors.New("with a name that is none of a transit key")
	}
	h.name, h.check = string(name), bytes.Clone(check)
	return h, nil
}

// sized cuts a part off that its size precedes.
func sized(b []byte) (part, rest []byte, ok bool) {
	if len(b) == 0 || len(b)-1 < int(b[0]) {
		return nil, nil, false
	}
	n := 1 + int(b[0])
	return b[1:n], b[n:], true
}
