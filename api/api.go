// Package api is the wire of the REST API: the bodies of its requests and
// answers, and the one table that turns errors into statuses and texts and
// back. The paths are those of package policy.
//
// Bodies are JSON. Binary fields are standard base64 with padding, times are
// RFC 3339 in UTC. The routes and fields that KES has are exactly as KES has
// them; fields of our own are marked and are left out where they have no value.
package api

import "time"

// Limits of requests and answers.
const (
	MaxBody   = 1_000_000 // bytes in the body of a request
	MaxBatch  = 8 << 20   // bytes in the body of a batch
	MaxBulk   = 1000      // ciphertexts in a bulk decryption
	MaxAnswer = 1 << 20   // bytes that a KES client reads of an answer; only a list of keys can be longer
)

// ImportKeyRequest is the body of an import.
type ImportKeyRequest struct {
	Key    Secret `json:"key"`    // 32 bytes
	Cipher string `json:"cipher"` // CipherAES256 or CipherAES256KES
}

// The algorithm of every key, and the other name that KES has for it.
const (
	CipherAES256    = "AES256"
	CipherAES256KES = "AES256-GCM_SHA256"
)

// DescribeKeyResponse describes a key.
type DescribeKeyResponse struct {
	Name      string    `json:"name"`
	Algorithm string    `json:"algorithm"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"` // an identity

	// Ours.

	ID          string     `json:"id"`         // 32 hex digits; never given to a second key
	State       string     `json:"state"`      // "enabled" or "pending deletion"
	Version     uint32     `json:"version"`    // of the newest version; the first is 1
	Mode        string     `json:"mode"`       // how new ciphertexts are made: "direct" or "branch"
	Operations  uint64     `json:"operations"` // of the newest version that are reserved, of 2^32
	Imported    bool       `json:"imported,omitempty"`
	DeleteAfter *time.Time `json:"delete_after,omitempty"` // nil unless the key is pending deletion
}

// CreateKeyRequest is the body of a create, which may be empty. Ours: KES has
// none, and ignores what is there.
type CreateKeyRequest struct {
	Mode string `json:"mode,omitempty"` // "direct", "branch", or "default", which is the gateway's
}

// SetModeRequest is the body of a change of mode. Ours.
type SetModeRequest struct {
	Mode string `json:"mode"` // as in CreateKeyRequest
}

// ListKeysResponse holds names in ascending order: all of them, so that
// ContinueAt is always empty.
type ListKeysResponse struct {
	Names      []string `json:"names"`
	ContinueAt string   `json:"continue_at,omitempty"`
}

// GenerateKeyRequest is the body of a generate. Absent, null and empty contexts
// are the same.
type GenerateKeyRequest struct {
	Context []byte `json:"context,omitempty"`
	// Plaintext, if it is false, asks for the ciphertext only. Ours.
	Plaintext *bool `json:"plaintext,omitempty"`
}

// GenerateKeyResponse holds a data encryption key. It is secret: wipe Plaintext.
type GenerateKeyResponse struct {
	Plaintext  Secret `json:"plaintext,omitempty"` // 32 bytes, or none if it was not asked for
	Ciphertext []byte `json:"ciphertext"`
}

// EncryptRequest is the body of an encrypt. It is secret.
type EncryptRequest struct {
	Plaintext Secret `json:"plaintext"`
	Context   []byte `json:"context,omitempty"`
}

// EncryptResponse answers an encrypt.
type EncryptResponse struct {
	Ciphertext []byte `json:"ciphertext"`
}

// DecryptRequest is the body of a decrypt.
type DecryptRequest struct {
	Ciphertext []byte `json:"ciphertext"`
	Context    []byte `json:"context,omitempty"`
}

// DecryptResponse answers a decrypt. It is secret: wipe Plaintext.
type DecryptResponse struct {
	Plaintext Secret `json:"plaintext"`
}

// HMACRequest is the body of an hmac.
type HMACRequest struct {
	Message Secret `json:"message"`
}

// HMACResponse answers an hmac. It can be secret: storage servers make
// credentials of it.
type HMACResponse struct {
	HMAC Secret `json:"hmac"` // 32 bytes
}
