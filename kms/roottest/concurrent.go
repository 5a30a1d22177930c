package roottest

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/keygate/keygate/kms"
)

// concurrent has 32 goroutines use shared keys and keys of their own, and make
// some, with a bad ciphertext among the good ones now and then.
func concurrent(t *testing.T, r kms.Root) {
	shared := newKey(t, r, kms.Encryption)
	raw := random(kms.KeySize)
	imported, err := r.ImportKey(t.Context(), newID(), kms.Authentication, raw)
	check(t, err)
	g, ctx := errgroup.WithContext(t.Context())
	for range 32 {
		g.Go(func() error {
			own, err := r.NewKey(ctx, newID(), kms.Encryption)
			if err != nil {
				return err
			}
			for i := range 20 {
				if err := errors.Join(roundTrip(ctx, r, shared, i), roundTrip(ctx, r, own, i), sameMAC(ctx, r, imported, raw)); err != nil {
					return err
				}
			}
			return r.DestroyKey(ctx, own)
		})
	}
	check(t, g.Wait())
}

func roundTrip(ctx context.Context, r kms.Root, handle []byte, i int) error {
	plaintext, additionalData := random(32), random(16)
	ciphertext, err := r.Encrypt(ctx, handle, plaintext, additionalData)
	if err != nil {
		return err
	}
	if i%5 == 0 {
		if _, err := r.Decrypt(ctx, handle, flipped(ciphertext, i), additionalData); !errors.Is(err, kms.ErrCiphertext) {
			return fmt.Errorf("a changed ciphertext: %w", err)
		}
	}
	got, err := r.Decrypt(ctx, handle, ciphertext, additionalData)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, plaintext) {
		return errors.New("another plaintext")
	}
	return nil
}

func sameMAC(ctx context.Context, r kms.Root, handle, key []byte) error {
	message := random(16)
	got, err := r.MAC(ctx, handle, message)
	if err != nil {
		return err
	}
	h := hmac.New(sha256.New, key)
	h.Write(message)
	if !hmac.Equal(got[:], h.Sum(nil)) {
		return errors.New("another MAC")
	}
	return nil
}
