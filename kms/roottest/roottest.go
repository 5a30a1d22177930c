// Package roottest is the suite that every kms.Root passes.
//
// Beyond the words of kms.Root it settles this: a handle that is used for the
// purpose of the other kind of key is ErrUnsupported, as are a plaintext and
// additional data that are too long. A handle that is not, bit for bit, what
// the root returned is ErrCorrupt, whatever it is used for, and never opens or
// authenticates anything.
package roottest

import (
	"crypto/rand"
	"errors"
	"slices"
	"testing"

	"github.com/keygate/keygate/kms"
)

// An Option says where a root is another than most.
type Option uint8

const (
	// NoEncryptionImport: importing an encryption key is ErrUnsupported.
	NoEncryptionImport Option = 1 << iota
	// ImportsApart: an encryption key that is imported twice is two keys, as it is
	// in AWS KMS, which binds ciphertexts to one of its keys, not to its material.
	ImportsApart
)

// Run tests the roots that open returns: a new one for each call, that is
// closed when the test of t ends.
func Run(t *testing.T, open func(t *testing.T) kms.Root, options ...Option) {
	root := open(t)
	importedEncryption := importedTwice
	if slices.Contains(options, ImportsApart) {
		importedEncryption = importedApart
	}
	if slices.Contains(options, NoEncryptionImport) {
		importedEncryption = importRefused
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, kms.Root)
	}{
		{"encrypt: every size comes back", sizes},
		{"encrypt: more than the limits is ErrUnsupported", limits},
		{"encrypt: 1000 ciphertexts of one plaintext differ", distinct},
		{"CR-08 decrypt: other additional data is ErrCiphertext", additionalData},
		{"CR-08 decrypt: another key is ErrCiphertext", otherKey},
		{"CR-09 decrypt: every change of a ciphertext is ErrCiphertext", changedCiphertext},
		{"CR-07 handle: every change is ErrCorrupt", changedHandle},
		{"handle: garbage is ErrCorrupt", garbageHandle},
		{"handle: the other purpose is ErrUnsupported", otherPurpose},
		{"handle: two keys never share one", distinctHandles},
		{"new key: an unknown purpose is ErrUnsupported", unknownPurpose},
		{"import: MAC is HMAC-SHA-256 under the imported key", importedMAC},
		{"import: an encryption key round-trips, or is refused", importedEncryption},
		{"import: another size is ErrKeySize", importedSize},
		{"mac: the record key is stable and its own", recordKey},
		{"arguments are neither changed nor kept", argumentsStay},
		{"a context that has ended ends the call", ended},
		{"destroy: twice is nil", destroy},
		{"random: all of it, and never the same", randomSource},
		{"status: a root that works says so", status},
		{"32 goroutines at once", concurrent},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, root) })
	}
}

func newKey(t *testing.T, r kms.Root, purpose kms.Purpose) []byte {
	t.Helper()
	handle, err := r.NewKey(t.Context(), newID(), purpose)
	check(t, err)
	if len(handle) == 0 || len(handle) > kms.MaxHandleSize {
		t.Fatalf("handle of %d bytes", len(handle))
	}
	return handle
}

func newID() (id kms.KeyID) {
	rand.Read(id[:])
	return id
}

func encrypt(t *testing.T, r kms.Root, handle, plaintext, additionalData []byte) []byte {
	t.Helper()
	ciphertext, err := r.Encrypt(t.Context(), handle, plaintext, additionalData)
	check(t, err)
	return ciphertext
}

func mac(t *testing.T, r kms.Root, handle, message []byte) [kms.MACSize]byte {
	t.Helper()
	sum, err := r.MAC(t.Context(), handle, message)
	check(t, err)
	return sum
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sentinels are the errors of which each error of a root is exactly one.
var sentinels = []error{kms.ErrUnavailable, kms.ErrDenied, kms.ErrCorrupt, kms.ErrCiphertext, kms.ErrUnsupported, kms.ErrKeySize}

func is(t *testing.T, err, want error) {
	t.Helper()
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) != (sentinel == want) {
			t.Fatalf("error is %v, not %v alone", err, want)
		}
	}
}

func flipped(b []byte, bit int) []byte {
	b = slices.Clone(b)
	b[bit/8] ^= 1 << (bit % 8)
	return b
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
