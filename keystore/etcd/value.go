package etcd

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/keygate/keygate/keystore"
)

// A value is what etcd holds of a record:
//
//	 1  format of the value, 1
//	16  id of the write, random
//	 n  the record
//
// The id tells a writer that lost the answer that the record is his, and one
// revision from another also when etcd was restored from a snapshot and counts its
// own anew.
const (
	valueFormat = 1
	idSize      = 16
	headerSize  = 1 + idSize
)

type writeID [idSize]byte

func newID() (id writeID) {
	rand.Read(id[:])
	return id
}

func (id writeID) value(record []byte) string {
	return string(append(append([]byte{valueFormat}, id[:]...), record...))
}

// A stored is a record as etcd has it.
type stored struct {
	record []byte
	id     writeID
	mod    int64 // revision of etcd's
}

func parse(kv *mvccpb.KeyValue) (stored, error) {
	if n := len(kv.Value); n < headerSize || n > headerSize+keystore.MaxRecordSize || kv.Value[0] != valueFormat {
		return stored{}, fmt.Errorf("%w: a value of %d bytes that is not one of keygate", keystore.ErrCorrupt, n)
	}
	return stored{record: kv.Value[headerSize:], id: writeID(kv.Value[1:headerSize]), mod: kv.ModRevision}, nil
}

// revision is "<revision of etcd's>-<id in hex>".
func (r stored) revision() keystore.Revision {
	return keystore.Revision(strconv.FormatInt(r.mod, 10) + "-" + hex.EncodeToString(r.id[:]))
}

// modOf returns the revision of etcd's, or one that nothing has if rev is not one
// of this package's.
func modOf(rev keystore.Revision) int64 {
	mod, id, _ := strings.Cut(string(rev), "-")
	n, err := strconv.ParseInt(mod, 10, 64)
	if err != nil || n < 1 || len(id) != 2*idSize || strconv.FormatInt(n, 10) != mod {
		return -1
	}
	return n
}
