// Package roottest is the suite that every kms.Root passes.
//
// Beyond the words of kms.Root it settles this: a handle that is used for the
// purpose of the other kind of key is ErrUnsupported, as are a plaintext and
// additional data that are too long. A handle that is not, bit for bit, what
// the root returned is ErrCorrupt, whatever it is used for, and never opens or
// authenticates anything.
package roottest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/keygate/keygate/kms"
)

// Run tests the roots that open returns: a new one for each call, that is
// closed when the test of t ends.
func Run(t *testing.T, open func(t *testing.T) kms.Root) {
	root := open(t)
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
		{"import: an encryption key round-trips", importedEncryption},
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

func importedEncryption(t *testing.T, r kms.Root) {
	key := random(kms.KeySize)
	one, err := r.ImportKey(t.Context(), newID(), kms.Encryption, key)
	check(t, err)
	two, err := r.ImportKey(t.Context(), newID(), kms.Encryption, key)
	check(t, err)
	ciphertext := encrypt(t, r, one, []byte("plaintext"), []byte("context"))
	got, err := r.Decrypt(t.Context(), two, ciphertext, []byte("context"))
	check(t, err)
	if string(got) != "plaintext" {
		t.Error("another plaintext")
	}
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

func argumentsStay(t *testing.T, r kms.Root) {
	key, plaintext, additionalData := random(kms.KeySize), random(100), random(50)
	key2, plaintext2, additionalData2 := slices.Clone(key), slices.Clone(plaintext), slices.Clone(additionalData)
	handle, err := r.ImportKey(t.Context(), newID(), kms.Encryption, key)
	check(t, err)
	handle2 := slices.Clone(handle)
	ciphertext := encrypt(t, r, handle, plaintext, additionalData)
	ciphertext2 := slices.Clone(ciphertext)
	_, err = r.Decrypt(t.Context(), handle, ciphertext, additionalData)
	check(t, err)
	for _, pair := range [][2][]byte{{key, key2}, {plaintext, plaintext2}, {additionalData, additionalData2}, {handle, handle2}, {ciphertext, ciphertext2}} {
		if !bytes.Equal(pair[0], pair[1]) {
			t.Error("an argument was changed")
		}
	}
	clear(handle) // the caller's: what the root keeps must be its own
	clear(key)
	got, err := r.Decrypt(t.Context(), handle2, ciphertext, additionalData)
	check(t, err)
	if !bytes.Equal(got, plaintext) {
		t.Error("another plaintext after the caller changed its slices")
	}
}

func ended(t *testing.T, r kms.Root) {
	handle := newKey(t, r, kms.Encryption)
	ciphertext := encrypt(t, r, handle, nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	start := time.Now()
	_, err := r.NewKey(ctx, newID(), kms.Encryption)
	is(t, err, kms.ErrUnavailable)
	_, err = r.Encrypt(ctx, handle, nil, nil)
	is(t, err, kms.ErrUnavailable)
	_, err = r.Decrypt(ctx, handle, ciphertext, nil)
	is(t, err, kms.ErrUnavailable)
	_, err = r.MAC(ctx, nil, nil)
	is(t, err, kms.ErrUnavailable)
	is(t, r.Status(ctx), kms.ErrUnavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v does not say that the context was cancelled", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("they took %v", took)
	}
}

func destroy(t *testing.T, r kms.Root) {
	other := newKey(t, r, kms.Encryption)
	ciphertext := encrypt(t, r, other, []byte("plaintext"), nil)
	for _, purpose := range []kms.Purpose{kms.Encryption, kms.Authentication} {
		handle := newKey(t, r, purpose)
		check(t, r.DestroyKey(t.Context(), handle))
		check(t, r.DestroyKey(t.Context(), handle))
	}
	_, err := r.Decrypt(t.Context(), other, ciphertext, nil)
	check(t, err)
}

func status(t *testing.T, r kms.Root) {
	check(t, r.Status(t.Context()))
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
