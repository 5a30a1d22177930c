package awskms

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	keygate "github.com/keygate/keygate/kms"
)

// A keyHandle says which key an operation uses. In bytes, version 1; integers are
// big-endian:
//
//	format     1 byte    1
//	kind       1 byte
//	key id    16 bytes   of the named key
//	instance  16 bytes   random, so that no two handles are the same
//	ARN        2 bytes   its length, and as many bytes: of the KMS key
//	wrapped    2 bytes   its length, and as many bytes: of a MAC key; else none
//	checksum  16 bytes   of SHA-256 over all before
//
// The checksum tells a damaged handle from a whole one, without a call. It is no
// protection against an adversary: the record key authenticates handles, as parts
// of records.
type keyHandle struct {
	kind     kind
	id       keygate.KeyID
	instance [16]byte
	arn      string
	wrapped  []byte
}

// A kind is what a handle's key is, and so its purpose.
type kind byte

const (
	sharedKind kind = 1 // encrypts with the KMS key of all, in a context of its own
	ownKind    kind = 2 // encrypts with a KMS key of its own
	macKind    kind = 3 // is a MAC key that the KMS key of all wraps
)

func (k kind) purpose() keygate.Purpose {
	if k == macKind {
		return keygate.Authentication
	}
	return keygate.Encryption
}

const (
	handleFormat = 1
	handleFixed  = 2 + 16 + 16
	checksumSize = 16
	maxARN       = 2048 // bytes of an id of a KMS key
	maxBlob      = 6144 // bytes of a ciphertext that Decrypt of KMS takes
	maxWrapped   = 1024 // bytes of a wrapped MAC key: some 200 at AWS
)

func newHandle(k kind, id keygate.KeyID) keyHandle {
	h := keyHandle{kind: k, id: id}
	rand.Read(h.instance[:]) // never fails: crypto/rand
	return h
}

// owner is what the encryption context calls the key.
func (h keyHandle) owner() string { return h.id.String() + hex.EncodeToString(h.instance[:]) }

func (h keyHandle) marshal() []byte {
	b := make([]byte, 0, handleFixed+2+len(h.arn)+2+len(h.wrapped)+checksumSize)
	b = append(b, handleFormat, byte(h.kind))
	b = append(b, h.id[:]...)
	b = append(b, h.instance[:]...)
	b = appendSized(b, []byte(h.arn))
	b = appendSized(b, h.wrapped)
	return append(b, checksum(b)...)
}

func appendSized(b, p []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(p))), p...)
}

func checksum(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)[:checksumSize]
}

// parseHandle is the inverse of marshal. It takes nothing else, and returns
// ErrCorrupt.
func parseHandle(b []byte) (keyHandle, error) {
	h, err := readHandle(b)
	if err != nil {
		return keyHandle{}, fmt.Errorf("awskms: key handle: %w: %w", err, keygate.ErrCorrupt)
	}
	return h, nil
}

func readHandle(b []byte) (h keyHandle, err error) {
	if len(b) < handleFixed+checksumSize || len(b) > keygate.MaxHandleSize {
		return h, errors.New("too short or too long")
	}
	if b[0] != handleFormat {
		return h, fmt.Errorf("unknown format %d", b[0])
	}
	body, sum := b[:len(b)-checksumSize], b[len(b)-checksumSize:]
	if string(checksum(body)) != string(sum) {
		return h, errors.New("checksum does not match")
	}
	h.kind = kind(b[1])
	copy(h.id[:], b[2:])
	copy(h.instance[:], b[18:])
	arn, rest, ok := cutSized(body[handleFixed:])
	if !ok || len(arn) == 0 || len(arn) > maxARN {
		return h, errors.New("no ARN")
	}
	wrapped, rest, ok := cutSized(rest)
	if !ok || len(rest) != 0 || h.kind < sharedKind || h.kind > macKind || (h.kind == macKind) != (len(wrapped) > 0) {
		return h, errors.New("not of its kind")
	}
	h.arn, h.wrapped = string(arn), append([]byte(nil), wrapped...)
	return h, nil
}

func cutSized(b []byte) (p, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// forPurpose parses a handle that has to be for purpose: one for the other is
// ErrUnsupported.
func forPurpose(b []byte, purpose keygate.Purpose) (keyHandle, error) {
	h, err := parseHandle(b)
	if err == nil && h.kind.purpose() != purpose {
		err = fmt.Errorf("awskms: a key for purpose %d used for %d: %w", h.kind.purpose(), purpose, keygate.ErrUnsupported)
	}
	return h, err
}

// inRegion returns the ARN by which a region knows the key: for a multi-Region key,
// whose id begins with mrk-, that of its replica there.
func inRegion(arn, region string) string {
	parts := strings.SplitN(arn, ":", 6) // arn:partition:kms:region:account:key/id
	if len(parts) != 6 || !strings.HasPrefix(parts[5], "key/mrk-") {
		return arn
	}
	parts[3] = region
	return strings.Join(parts, ":")
}
