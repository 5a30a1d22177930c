package roottest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"testing"

	"github.com/keygate/keygate/kms"
)

func importedMAC(t *testing.T, r kms.Root) {
	key := random(kms.KeySize)
	handle, err := r.ImportKey(t.Context(), newID(), kms.Authentication, key)
	check(t, err)
	if bytes.Contains(handle, key) {
		t.Error("the key is in its handle")
	}
	for _, n := range []int{0, 1, 16, 63, 64, 65, 1000, 4096, 100_000} {
		message := random(n)
		h := hmac.New(sha256.New, key)
		h.Write(message)
		if got := mac(t, r, handle, message); !hmac.Equal(got[:], h.Sum(nil)) {
			t.Errorf("%d bytes: another MAC", n)
		}
	}
}

func importedTwice(t *testing.T, r kms.Root) {
	one, two := importTwice(t, r)
	ciphertext := encrypt(t, r, one, []byte("plaintext"), []byte("context"))
	opens(t, r, two, ciphertext)
}

func importedApart(t *testing.T, r kms.Root) {
	one, two := importTwice(t, r)
	ciphertext := encrypt(t, r, one, []byte("plaintext"), []byte("context"))
	opens(t, r, one, ciphertext)
	_, err := r.Decrypt(t.Context(), two, ciphertext, []byte("context"))
	is(t, err, kms.ErrCiphertext)
}

func importTwice(t *testing.T, r kms.Root) (one, two []byte) {
	key := random(kms.KeySize)
	one, err := r.ImportKey(t.Context(), newID(), kms.Encryption, key)
	check(t, err)
	two, err = r.ImportKey(t.Context(), newID(), kms.Encryption, key)
	check(t, err)
	return one, two
}

func opens(t *testing.T, r kms.Root, handle, ciphertext []byte) {
	got, err := r.Decrypt(t.Context(), handle, ciphertext, []byte("context"))
	check(t, err)
	if string(got) != "plaintext" {
		t.Error("another plaintext")
	}
}

func importRefused(t *testing.T, r kms.Root) {
	_, err := r.ImportKey(t.Context(), newID(), kms.Encryption, random(kms.KeySize))
	is(t, err, kms.ErrUnsupported)
}

func importedSize(t *testing.T, r kms.Root) {
	for _, n := range []int{0, 1, 16, 24, 31, 33, 64, 4096} {
		_, err := r.ImportKey(t.Context(), newID(), kms.Encryption, random(n))
		is(t, err, kms.ErrKeySize)
	}
}

func recordKey(t *testing.T, r kms.Root) {
	one := mac(t, r, nil, []byte("a record"))
	if mac(t, r, nil, []byte("a record")) != one {
		t.Error("the MAC of one message changes")
	}
	if mac(t, r, nil, []byte("a recorD")) == one {
		t.Error("the MAC of another message is the same")
	}
	if mac(t, r, newKey(t, r, kms.Authentication), []byte("a record")) == one {
		t.Error("the MAC of a new key is the record key's")
	}
}
