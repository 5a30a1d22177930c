package kms

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
)

// A KeyID names one master key for ever: 16 random bytes, never used again,
// also when a name is deleted and made anew.
type KeyID [16]byte

// String returns the id in lower-case hex, 32 characters.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// A ClusterID names the gateways that share one key store: 16 random bytes.
// Every key record and every ciphertext is bound to it.
type ClusterID [16]byte

// String returns the id in lower-case hex, 32 characters.
func (id ClusterID) String() string { return hex.EncodeToString(id[:]) }

// ParseClusterID reads what ClusterID.String writes.
func ParseClusterID(s string) (ClusterID, error) {
	var id ClusterID
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) || s != hex.EncodeToString(b) {
		return id, fmt.Errorf("kms: cluster id %q is not 32 lower-case hex digits", s)
	}
	return ClusterID(b), nil
}

// A Purpose is the one thing that a key of a root may be used for
// (NIST SP 800-57 part 1, 5.2: a key is used for one purpose).
type Purpose uint8

const (
	// Encryption is the purpose of a key for Root.Encrypt and Root.Decrypt:
	// AES-256, used with GCM.
	Encryption Purpose = 1
	// Authentication is the purpose of a key for Root.MAC: 32 bytes, used with
	// HMAC-SHA-256.
	Authentication Purpose = 2
)

// Sizes that every root keeps to.
const (
	KeySize          = 32   // bytes of each key
	MACSize          = 32   // bytes that Root.MAC returns
	MaxRootPlaintext = 4096 // bytes that Root.Encrypt takes
	MaxRootAD        = 1024 // bytes of additional data that Root.Encrypt takes
	MaxHandleSize    = 4096 // bytes of a handle
	MaxRandom        = 64   // bytes that Root.Random fills
)

// A Root keeps master keys where the gateway cannot read them. Its keys are
// known by an opaque handle that the key's record stores: a blob wrapped by the
// HSM, the name of a transit key, an ARN. Every method is safe for concurrent
// use, returns when ctx ends, and neither keeps nor changes a slice it is
// given.
//
// Every error wraps one of ErrUnavailable, ErrDenied, ErrCorrupt,
// ErrCiphertext or ErrUnsupported. What a root cannot tell is ErrUnavailable:
// a fault of the device is never reported as a bad ciphertext.
type Root interface {
	// NewKey makes a key for purpose inside the root. When it returns nil, the
	// handle has been used once and gave the right key.
	NewKey(ctx context.Context, id KeyID, purpose Purpose) (handle []byte, err error)
	// ImportKey brings 32 bytes of the caller's into the root, as NewKey does
	// with random ones. The caller wipes key.
	ImportKey(ctx context.Context, id KeyID, purpose Purpose, key []byte) (handle []byte, err error)
	// Encrypt encrypts up to MaxRootPlaintext bytes and authenticates
	// additionalData with them, up to MaxRootAD bytes. Two calls with the same
	// arguments differ.
	Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) (ciphertext []byte, err error)
	// Decrypt opens what Encrypt made. If the handle's key or the additional
	// data is another one or the ciphertext was changed, it returns
	// ErrCiphertext.
	Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) (plaintext []byte, err error)
	// MAC returns HMAC-SHA-256 of message under the handle's key. A nil handle
	// means the root's record key, which authenticates key records and is the
	// same on every node of a cluster.
	MAC(ctx context.Context, handle, message []byte) ([MACSize]byte, error)
	// Random fills b, at most MaxRandom bytes, from the root's own random source.
	Random(ctx context.Context, b []byte) error
	// DestroyKey destroys the handle's key for good, as far as the root can:
	// nil also if it is gone already or the handle was the only place that
	// held it.
	DestroyKey(ctx context.Context, handle []byte) error
	// Status returns nil if the root can be used now, by using it.
	Status(ctx context.Context) error
	// Close releases what the root holds. No other method may be called after.
	Close() error
}

// Degradable is a Root that has parts of which each can serve in the place of others.
type Degradable interface {
	// Degraded names the parts that cannot be used now. It asks nobody.
	Degraded() []string
}

// Partial is a Root that can encrypt with a part of it only.
type Partial interface {
	// Partial reports whether a ciphertext of Encrypt was made so, so that it opens
	// with that part only. It asks nobody.
	Partial(ciphertext []byte) bool
}

// The errors of this package and of every root, wrapped with their cause.
var (
	// ErrKeyNotFound says that the store has proved that there is no key of
	// that name.
	ErrKeyNotFound = errors.New("kms: key does not exist")
	// ErrKeyExists says that the name is taken by a key in use.
	ErrKeyExists = errors.New("kms: key already exists")
	// ErrPendingDeletion says that the key was deleted and waits for its end:
	// it cannot be used and its name cannot be taken.
	ErrPendingDeletion = errors.New("kms: key is pending deletion")
	// ErrName says that a key name breaks the rule of keystore.ValidName.
	ErrName = errors.New("kms: invalid key name")
	// ErrCiphertext says that a ciphertext is not authentic: made under another
	// key or additional data, changed, or no ciphertext at all.
	ErrCiphertext = errors.New("kms: ciphertext is not authentic")
	// ErrExhausted says that the newest version of a key has encrypted as often
	// as it ever may (MaxOperations). It still decrypts.
	ErrExhausted = errors.New("kms: key version has reached its limit of operations")
	// ErrNoMAC says that the key has no MAC key.
	ErrNoMAC = errors.New("kms: key does not support HMAC")
	// ErrKeySize says that an imported key is not KeySize bytes.
	ErrKeySize = errors.New("kms: invalid key size")
	// ErrCorrupt says that a key record or a handle is not what was stored:
	// edited, swapped, truncated or of another cluster. It is an alarm.
	ErrCorrupt = errors.New("kms: key record is corrupt")
	// ErrUnsupported says that the root or this version of the gateway cannot
	// do what was asked.
	ErrUnsupported = errors.New("kms: not supported")
	// ErrDenied says that the root or the store refuses this gateway.
	ErrDenied = errors.New("kms: access denied")
	// ErrUnavailable says that the root or the store cannot answer now.
	ErrUnavailable = errors.New("kms: unavailable")
)
