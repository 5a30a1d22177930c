package fs

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/keygate/keygate/keystore"
)

// The file of a record, version 1; integers are big-endian:
//
//	magic     8 bytes   "keygate\x01"
//	revision 16 bytes   random, new for each write
//	length    4 bytes   of the record
//	checksum 32 bytes   SHA-256 over the three above, the length of the name
//	                    (1 byte), the name, and the record
//	record
//
// The checksum tells a torn, damaged or misplaced file from a whole one. It is
// no protection against an adversary: package kms authenticates records.
const (
	magic      = "keygate\x01"
	revOffset  = len(magic)
	revSize    = 16
	lenOffset  = revOffset + revSize
	sumOffset  = lenOffset + 4
	headerSize = sumOffset + sha256.Size
	maxFile    = headerSize + keystore.MaxRecordSize
)

// encode returns the bytes of the file for a record, with a new revision.
func encode(name string, record []byte) []byte {
	file := make([]byte, headerSize, headerSize+len(record))
	copy(file, magic)
	rand.Read(file[revOffset:lenOffset]) // never fails: crypto/rand
	binary.BigEndian.PutUint32(file[lenOffset:], uint32(len(record)))
	file = append(file, record...)
	sum := checksum(name, file)
	copy(file[sumOffset:], sum[:])
	return file
}

// decode returns the record in file and its revision, or ErrCorrupt. The record
// shares memory with file.
func decode(name string, file []byte) ([]byte, keystore.Revision, error) {
	if len(file) < headerSize || !bytes.HasPrefix(file, []byte(magic)) {
		return nil, "", corrupt("not a record file")
	}
	if n := binary.BigEndian.Uint32(file[lenOffset:]); uint64(n) != uint64(len(file)-headerSize) {
		return nil, "", corrupt("holds %d bytes of a record of %d", len(file)-headerSize, n)
	}
	if sum := checksum(name, file); !bytes.Equal(sum[:], file[sumOffset:headerSize]) {
		return nil, "", corrupt("checksum does not match: damaged, or not the record of this name")
	}
	return file[headerSize:], keystore.Revision(hex.EncodeToString(file[revOffset:lenOffset])), nil
}

func checksum(name string, file []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(file[:sumOffset])
	h.Write([]byte{byte(len(name))})
	h.Write([]byte(name))
	h.Write(file[headerSize:])
	return [sha256.Size]byte(h.Sum(nil))
}
