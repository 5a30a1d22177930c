package roottest

import (
	"slices"
	"testing"

	"github.com/keygate/keygate/kms"
)

func changedHandle(t *testing.T, r kms.Root) {
	for _, purpose := range []kms.Purpose{kms.Encryption, kms.Authentication} {
		handle := newKey(t, r, purpose)
		for bit := range len(handle) * 8 {
			corrupt(t, r, flipped(handle, bit))
		}
		for n := 1; n < len(handle); n++ {
			corrupt(t, r, handle[:n])
		}
		corrupt(t, r, append(slices.Clone(handle), 0))
		corrupt(t, r, append(slices.Clone(handle), handle...))
	}
}

func garbageHandle(t *testing.T, r kms.Root) {
	for _, n := range []int{1, 16, 29, 64, 85, 97, 128, kms.MaxHandleSize, kms.MaxHandleSize + 1} {
		corrupt(t, r, random(n))
		corrupt(t, r, make([]byte, n))
	}
	_, err := r.Encrypt(t.Context(), nil, nil, nil) // the record key encrypts nothing
	is(t, err, kms.ErrCorrupt)
	_, err = r.Decrypt(t.Context(), nil, make([]byte, 64), nil)
	is(t, err, kms.ErrCorrupt)
	_, err = r.MAC(t.Context(), []byte{}, nil)
	is(t, err, kms.ErrCorrupt)
}

// corrupt checks that no operation takes the handle.
func corrupt(t *testing.T, r kms.Root, handle []byte) {
	t.Helper()
	_, err := r.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
	is(t, err, kms.ErrCorrupt)
	_, err = r.Decrypt(t.Context(), handle, make([]byte, 64), nil)
	is(t, err, kms.ErrCorrupt)
	_, err = r.MAC(t.Context(), handle, []byte("message"))
	is(t, err, kms.ErrCorrupt)
}

func otherPurpose(t *testing.T, r kms.Root) {
	encryption, authentication := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
	_, err := r.MAC(t.Context(), encryption, []byte("message"))
	is(t, err, kms.ErrUnsupported)
	_, err = r.Encrypt(t.Context(), authentication, []byte("plaintext"), nil)
	is(t, err, kms.ErrUnsupported)
	_, err = r.Decrypt(t.Context(), authentication, make([]byte, 64), nil)
	is(t, err, kms.ErrUnsupported)
}

func distinctHandles(t *testing.T, r kms.Root) {
	id, seen := newID(), map[string]bool{}
	for range 20 {
		handle, err := r.NewKey(t.Context(), id, kms.Encryption)
		check(t, err)
		seen[string(handle)] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d different handles of 20 keys with one id", len(seen))
	}
}

func unknownPurpose(t *testing.T, r kms.Root) {
	for _, purpose := range []kms.Purpose{0, 3, 255} {
		_, err := r.NewKey(t.Context(), newID(), purpose)
		is(t, err, kms.ErrUnsupported)
		_, err = r.ImportKey(t.Context(), newID(), purpose, make([]byte, kms.KeySize))
		is(t, err, kms.ErrUnsupported)
	}
}
