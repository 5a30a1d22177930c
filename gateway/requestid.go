package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"sync/atomic"
)

// requestIDs names requests: 16 hex digits, the first of them random for each
// server and the others counted, so that an id costs no random number. It is no
// secret.
type requestIDs struct {
	next atomic.Uint64
}

func newRequestIDs() *requestIDs {
	var b [5]byte
	rand.Read(b[:])
	ids := new(requestIDs)
	for _, c := range b {
		ids.next.Store(ids.next.Load()<<8 | uint64(c))
	}
	ids.next.Store(ids.next.Load() << 24)
	return ids
}

func (ids *requestIDs) id() string {
	n := ids.next.Add(1)
	var b [8]byte
	for i := range b {
		b[i] = byte(n >> (56 - 8*i))
	}
	var text [16]byte
	hex.Encode(text[:], b[:])
	return string(text[:])
}
