package hsm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keygate/keygate/kms"
)

// A keyHandle is a master key as its record stores it: wrapped by the KEK, so
// that any token that holds the KEK can load it, or the name of an object in the
// one token that holds the key. Its bytes are
//
//	1   format, 1
//	1   wrapping; see the constants of that type
//	1   purpose, 1 or 2
//	16  key id
//	8   CKA_ID of the KEK; of a key in the token: its number
//	2   size of the wrapped key, big endian; of a key in the token: 0
//	n   wrapped key
//	c   check: what the right key answers
//
// The check of an Encryption key is an IV of 12 bytes and the GCM tag, of 16,
// of an empty plaintext; that of an Authentication key is the first 16 bytes of
// an HMAC. Both cover the key id. The wrapping is recorded by its standard, not
// as a CKM number, since vendors have numbers of their own for it.
type keyHandle struct {
	wrapping wrapping
	purpose  kms.Purpose
	id       kms.KeyID
	kek      kekID // or the number of a key in the token: see resident.go
	wrapped  []byte
	check    []byte
}

// A kekID is the CKA_ID of a KEK.
type kekID [8]byte

const (
	handleFormat  = 1
	handleHead    = 3 + 16 + 8
	handleFixed   = handleHead + 2
	ivSize        = 12 // NIST SP 800-38D 5.2.1.1: the size to use
	tagSize       = 16
	macCheckSize  = 16
	gcmCheckSize  = ivSize + tagSize
	checkConstant = "keygate key check"
)

func (h keyHandle) checkSize() int {
	if h.purpose == kms.Encryption {
		return gcmCheckSize
	}
	return macCheckSize
}

// checkData is what the check covers: a constant, so that it is no ciphertext
// or MAC of anything else, and the key id.
func checkData(id kms.KeyID) []byte { return append([]byte(checkConstant), id[:]...) }

// head returns the bytes of h before the size of the wrapped key.
func (h keyHandle) head() []byte {
	b := make([]byte, 0, handleHead)
	b = append(b, handleFormat, byte(h.wrapping), byte(h.purpose))
	b = append(b, h.id[:]...)
	return append(b, h.kek[:]...)
}

func (h keyHandle) marshal() []byte {
	b := make([]byte, 0, handleFixed+len(h.wrapped)+len(h.check))
	b = append(b, h.head()...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.wrapped)))
	b = append(b, h.wrapped...)
	return append(b, h.check...)
}

// parseHandle is the inverse of marshal. It takes nothing else, and returns
// ErrCorrupt.
func parseHandle(b []byte) (keyHandle, error) {
	h, err := readHandle(b)
	if err != nil {
		return keyHandle{}, fmt.Errorf("hsm: key handle: %w: %w", err, kms.ErrCorrupt)
	}
	return h, nil
}

func readHandle(b []byte) (h keyHandle, err error) {
	if len(b) < handleFixed {
		return h, errors.New("too short")
	}
	if b[0] != handleFormat {
		return h, fmt.Errorf("unknown format %d", b[0])
	}
	h.wrapping = wrapping(b[1])
	size, known := h.wrapping.size()
	if !known {
		return h, fmt.Errorf("unknown wrapping %d", b[1])
	}
	h.purpose = kms.Purpose(b[2])
	if h.purpose != kms.Encryption && h.purpose != kms.Authentication {
		return h, fmt.Errorf("unknown purpose %d", b[2])
	}
	copy(h.id[:], b[3:])
	copy(h.kek[:], b[19:])
	if n := int(binary.BigEndian.Uint16(b[handleHead:])); n != size {
		return h, fmt.Errorf("wrapped key of %d bytes, not %d", n, size)
	}
	if rest := len(b) - handleFixed; rest != size+h.checkSize() {
		return h, fmt.Errorf("wrapped key and check of %d bytes, not %d", rest, size+h.checkSize())
	}
	b = append([]byte(nil), b[handleFixed:]...)
	h.wrapped, h.check = b[:size:size], b[size:]
	return h, nil
}
