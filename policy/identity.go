package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// An Identity is the SHA-256 hash of a client's public key, the DER encoding of
// its certificate's SubjectPublicKeyInfo, in 64 lower-case hex digits. A
// certificate that is renewed with the same key keeps it.
type Identity string

// IdentityOf returns the identity of a DER-encoded SubjectPublicKeyInfo.
func IdentityOf(spki []byte) Identity {
	sum := sha256.Sum256(spki)
	return Identity(hex.EncodeToString(sum[:]))
}

// ParseIdentity reads an identity.
func ParseIdentity(s string) (Identity, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != sha256.Size || hex.EncodeToString(b) != s {
		return "", fmt.Errorf("policy: identity %q is not 64 lower-case hex digits", s)
	}
	return Identity(s), nil
}
