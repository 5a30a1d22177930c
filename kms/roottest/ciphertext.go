package roottest

import (
	"bytes"
	"slices"
	"testing"

	"github.com/keygate/keygate/kms"
)

func sizes(t *testing.T, r kms.Root) {
	handle := newKey(t, r, kms.Encryption)
	for _, n := range []int{0, 1, 15, 16, 17, 24, 31, 32, 33, 48, 64, 255, 256, 1000, 4095, kms.MaxRootPlaintext} {
		for _, a := range []int{0, 1, 16, 100, kms.MaxRootAD} {
			plaintext, additionalData := random(n), random(a)
			ciphertext := encrypt(t, r, handle, plaintext, additionalData)
			if n >= 16 && bytes.Contains(ciphertext, plaintext) {
				t.Fatalf("%d bytes: the plaintext is in the ciphertext", n)
			}
			got, err := r.Decrypt(t.Context(), handle, ciphertext, additionalData)
			check(t, err)
			if !bytes.Equal(got, plaintext) {
				t.Fatalf("%d bytes with %d of additional data: another plaintext", n, a)
			}
		}
	}
}

func limits(t *testing.T, r kms.Root) {
	handle := newKey(t, r, kms.Encryption)
	_, err := r.Encrypt(t.Context(), handle, make([]byte, kms.MaxRootPlaintext+1), nil)
	is(t, err, kms.ErrUnsupported)
	_, err = r.Encrypt(t.Context(), handle, nil, make([]byte, kms.MaxRootAD+1))
	is(t, err, kms.ErrUnsupported)
}

func distinct(t *testing.T, r kms.Root) {
	handle := newKey(t, r, kms.Encryption)
	seen := map[string]bool{}
	for range 1000 {
		seen[string(encrypt(t, r, handle, []byte("the same"), nil))] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d different ciphertexts of 1000", len(seen))
	}
}

func additionalData(t *testing.T, r kms.Root) {
	handle := newKey(t, r, kms.Encryption)
	ciphertext := encrypt(t, r, handle, []byte("plaintext"), []byte("abc"))
	for _, other := range [][]byte{nil, []byte("ab"), []byte("abcd"), []byte("abC"), []byte("bca"), []byte("abc\x00"), make([]byte, kms.MaxRootAD+1)} {
		_, err := r.Decrypt(t.Context(), handle, ciphertext, other)
		is(t, err, kms.ErrCiphertext)
	}
	ciphertext = encrypt(t, r, handle, []byte("plaintext"), nil)
	_, err := r.Decrypt(t.Context(), handle, ciphertext, []byte{0})
	is(t, err, kms.ErrCiphertext)
	// No additional data and none of it are the same.
	if _, err := r.Decrypt(t.Context(), handle, ciphertext, []byte{}); err != nil {
		t.Error(err)
	}
}

func otherKey(t *testing.T, r kms.Root) {
	one, two := newKey(t, r, kms.Encryption), newKey(t, r, kms.Encryption)
	ciphertext := encrypt(t, r, one, []byte("plaintext"), nil)
	_, err := r.Decrypt(t.Context(), two, ciphertext, nil)
	is(t, err, kms.ErrCiphertext)
}

func changedCiphertext(t *testing.T, r kms.Root) {
	handle := newKey(t, r, kms.Encryption)
	ciphertext := encrypt(t, r, handle, []byte("plaintext of some bytes"), nil)
	refused := func(what string, changed []byte) {
		plaintext, err := r.Decrypt(t.Context(), handle, changed, nil)
		if plaintext != nil {
			t.Errorf("%s: a plaintext was returned", what)
		}
		is(t, err, kms.ErrCiphertext)
	}
	for bit := range len(ciphertext) * 8 {
		refused("a flipped bit", flipped(ciphertext, bit))
	}
	for n := range len(ciphertext) {
		refused("truncated", ciphertext[:n])
	}
	for n := 1; n <= 64; n++ {
		refused("extended", append(slices.Clone(ciphertext), make([]byte, n)...))
	}
	refused("doubled", append(slices.Clone(ciphertext), ciphertext...))
	refused("nothing", nil)
	refused("far too long", make([]byte, 1<<20))
	if _, err := r.Decrypt(t.Context(), handle, ciphertext, nil); err != nil {
		t.Errorf("the unchanged ciphertext, after these: %v", err)
	}
}
