package secretsmanager

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/keygate/keygate/keystore"
)

// The value of a secret, version 1:
//
//	magic     8 bytes   "keygate\x01", or "keygate\x02" for a record that was deleted
//	checksum 32 bytes   SHA-256 over the magic, the identity of the store and the name,
//	                    each with its length in front (1 byte), and the record
//	record
//
// The checksum tells what is damaged, or of another name or store, from a record.
// It is no protection against an adversary: package kms authenticates records.
const (
	magicRecord    = "keygate\x01"
	magicTombstone = "keygate\x02"
	valueHeader    = len(magicRecord) + sha256.Size
	maxValue       = 65536 // bytes of a secret (AWS Secrets Manager quotas)

	// MaxRecord is how many bytes a record may have here: fewer than
	// keystore.MaxRecordSize.
	MaxRecord = maxValue - valueHeader
)

func (s *Store) encode(magic, name string, record []byte) []byte {
	b := make([]byte, 0, valueHeader+len(record))
	b = append(b, magic...)
	b = append(b, s.checksum(magic, name, record)...)
	return append(b, record...)
}

// decode returns the record in a value; deleted says that there was one.
func (s *Store) decode(name string, value []byte) (record []byte, deleted bool, err error) {
	if len(value) < valueHeader {
		return nil, false, fmt.Errorf("%w: the secret is no record: it has %d bytes", keystore.ErrCorrupt, len(value))
	}
	magic, sum, record := string(value[:len(magicRecord)]), value[len(magicRecord):valueHeader], value[valueHeader:]
	if magic != magicRecord && magic != magicTombstone {
		return nil, false, fmt.Errorf("%w: the secret is no record", keystore.ErrCorrupt)
	}
	if !bytes.Equal(sum, s.checksum(magic, name, record)) {
		return nil, false, fmt.Errorf("%w: checksum does not match: damaged, or of another name or store", keystore.ErrCorrupt)
	}
	return append([]byte{}, record...), magic == magicTombstone, nil
}

func (s *Store) checksum(magic, name string, record []byte) []byte {
	h := sha256.New()
	h.Write([]byte(magic))
	for _, text := range []string{s.identity, name} {
		h.Write([]byte{byte(len(text))})
		h.Write([]byte(text))
	}
	h.Write(record)
	return h.Sum(nil)
}

// newToken returns a version id that no other version has: 32 characters, as a
// ClientRequestToken has to have at least.
func newToken() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand
	return hex.EncodeToString(b[:])
}
