package roottest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/keygate/keygate/kms"
)

func argumentsStay(t *testing.T, r kms.Root) {
	key, plaintext, additionalData := random(kms.KeySize), random(100), random(50)
	key2, plaintext2, additionalData2 := slices.Clone(key), slices.Clone(plaintext), slices.Clone(additionalData)
	imported, err := r.ImportKey(t.Context(), newID(), kms.Authentication, key)
	check(t, err)
	handle := newKey(t, r, kms.Encryption)
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
	check(t, sameMAC(t.Context(), r, imported, key2))
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
