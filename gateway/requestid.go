package gateway

import (
	"crypto/rand"
	"encoding/hex"
)

// newRequestID returns 16 random hex digits.
func newRequestID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
