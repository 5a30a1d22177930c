package kms_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	mathrand "math/rand/v2"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// A plainRoot has its keys in the handles: for measurements of what is above the
// root, with more keys than a token in software could make in the time.
type plainRoot struct{}

func (plainRoot) NewKey(context.Context, kms.KeyID, kms.Purpose) ([]byte, error) {
	key := make([]byte, kms.KeySize)
	rand.Read(key)
	return key, nil
}

func (plainRoot) ImportKey(_ context.Context, _ kms.KeyID, _ kms.Purpose, key []byte) ([]byte, error) {
	return append([]byte(nil), key...), nil
}

func (plainRoot) gcm(handle []byte) cipher.AEAD {
	block, err := aes.NewCipher(handle)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (r plainRoot) Encrypt(_ context.Context, handle, plaintext, ad []byte) ([]byte, error) {
	return r.gcm(handle).Seal(nil, nil, plaintext, ad), nil
}

func (r plainRoot) Decrypt(_ context.Context, handle, ciphertext, ad []byte) ([]byte, error) {
	p, err := r.gcm(handle).Open(nil, nil, ciphertext, ad)
	if err != nil {
		return nil, kms.ErrCiphertext
	}
	return p, nil
}

func (plainRoot) MAC(_ context.Context, handle, message []byte) (mac [kms.MACSize]byte, err error) {
	h := hmac.New(sha256.New, append([]byte("a key of 16 bytes or more"), handle...))
	h.Write(message)
	return [kms.MACSize]byte(h.Sum(nil)), nil
}

func (plainRoot) Random(_ context.Context, b []byte) error { rand.Read(b); return nil }
func (plainRoot) DestroyKey(context.Context, []byte) error { return nil }
func (plainRoot) Status(context.Context) error             { return nil }
func (plainRoot) Close() error                             { return nil }

// BenchmarkKeys uses keys at random that were all used before, on one node.
func BenchmarkKeys(b *testing.B) {
	for _, n := range []int{1, 1_000, 100_000} {
		k, err := kms.New(kms.Config{Cluster: cluster, RecordTTL: time.Hour, Logger: quiet()}, plainRoot{}, memory.New())
		if err != nil {
			b.Fatal(err)
		}
		ad := []byte(`{"bucket":"bucket/object"}`)
		names, ciphertexts := make([]string, n), make([][]byte, n)
		began := time.Now()
		for i := range n {
			names[i] = fmt.Sprintf("app-%06d", i)
			if _, err := k.CreateKey(b.Context(), names[i], ""); err != nil {
				b.Fatal(err)
			}
			if _, ciphertexts[i], _, err = k.GenerateDataKey(b.Context(), names[i], ad); err != nil {
				b.Fatal(err)
			}
		}
		b.Logf("%d keys: %v each to make and use once", n, time.Since(began)/time.Duration(n))
		b.Run(fmt.Sprintf("generate/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, _, _, err := k.GenerateDataKey(b.Context(), names[mathrand.IntN(n)], ad); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
		b.Run(fmt.Sprintf("decrypt/%d", n), func(b *testing.B) {
			before := k.Stats().BranchMisses
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					i := mathrand.IntN(n)
					if _, _, err := k.Decrypt(b.Context(), names[i], ciphertexts[i], ad); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(k.Stats().BranchMisses-before)/float64(b.N), "rootcalls/op")
		})
	}
}
