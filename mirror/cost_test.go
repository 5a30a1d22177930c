package mirror_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/mirror"
)

// A counted root counts the calls that use a key.
type counted struct {
	kms.Root
	n *atomic.Int64
}

func (c counted) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	c.n.Add(1)
	return c.Root.Encrypt(ctx, handle, plaintext, additionalData)
}

func (c counted) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	c.n.Add(1)
	return c.Root.Decrypt(ctx, handle, ciphertext, additionalData)
}

func (c counted) MAC(ctx context.Context, handle, message []byte) ([kms.MACSize]byte, error) {
	if string(message) == "a message" { // not the watch's
		c.n.Add(1)
	}
	return c.Root.MAC(ctx, handle, message)
}

// What an operation costs each of the two roots: docs/root-mirror.md has these numbers.
func TestCallsOfBothRoots(t *testing.T) {
	var n [2]atomic.Int64
	var members [2]mirror.Member
	for i := range members {
		m := localMember(t)
		members[i] = mirror.Member{Kind: m.Kind, Open: func(ctx context.Context) (kms.Root, error) {
			root, err := m.Open(ctx)
			return counted{root, &n[i]}, err
		}}
	}
	r := made(t, members[0], members[1])
	encryption, err := r.NewKey(t.Context(), kms.KeyID{}, kms.Encryption)
	ok(t, err)
	authentication, err := r.NewKey(t.Context(), kms.KeyID{}, kms.Authentication)
	ok(t, err)
	var ciphertext []byte
	for _, c := range []struct {
		name string
		want [2]int64
		do   func() error
	}{
		{"encrypt", [2]int64{2, 2}, func() (err error) {
			ciphertext, err = r.Encrypt(t.Context(), encryption, []byte("x"), nil)
			return err
		}},
		{"decrypt", [2]int64{1, 0}, func() error { _, err := r.Decrypt(t.Context(), encryption, ciphertext, nil); return err }},
		{"mac", [2]int64{1, 0}, func() error { _, err := r.MAC(t.Context(), authentication, []byte("a message")); return err }},
		{"decrypt damage", [2]int64{0, 0}, func() error {
			_, err := r.Decrypt(t.Context(), encryption, ciphertext[1:], nil)
			is(t, err, kms.ErrCiphertext)
			return nil
		}},
		{"decrypt with another context", [2]int64{1, 1}, func() error {
			_, err := r.Decrypt(t.Context(), encryption, ciphertext, []byte("another"))
			is(t, err, kms.ErrCiphertext)
			return nil
		}},
	} {
		before := [2]int64{n[0].Load(), n[1].Load()}
		ok(t, c.do())
		if got := [2]int64{n[0].Load() - before[0], n[1].Load() - before[1]}; got != c.want {
			t.Errorf("%s: %v calls, not %v", c.name, got, c.want)
		}
	}
}

func BenchmarkSoftHSMAlone(b *testing.B) { benchmark(b, hsmtest.Root(b)) }

func BenchmarkTwoSoftHSMs(b *testing.B) {
	one, two := hsmtest.Root(b), hsmtest.Root(b)
	members := [2]mirror.Member{
		{Kind: "pkcs11", Open: func(context.Context) (kms.Root, error) { return unclosed{one}, nil }},
		{Kind: "pkcs11", Open: func(context.Context) (kms.Root, error) { return unclosed{two}, nil }},
	}
	cfg := mirror.Config{RecordKeyFile: b.TempDir() + "/record-key"}
	if _, err := mirror.Init(b.Context(), cfg, members, quiet()); err != nil {
		b.Fatal(err)
	}
	r, err := mirror.Open(b.Context(), cfg, members, quiet())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { r.Close() })
	benchmark(b, r)
}

func benchmark(b *testing.B, r kms.Root) {
	handle, err := r.NewKey(b.Context(), kms.KeyID{}, kms.Encryption)
	if err != nil {
		b.Fatal(err)
	}
	plaintext, data := make([]byte, 32), make([]byte, 72)
	ciphertext, err := r.Encrypt(b.Context(), handle, plaintext, data)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encrypt", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.Encrypt(b.Context(), handle, plaintext, data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decrypt", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.Decrypt(b.Context(), handle, ciphertext, data); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("mac", func(b *testing.B) {
		for b.Loop() {
			if _, err := r.MAC(b.Context(), nil, plaintext); err != nil {
				b.Fatal(err)
			}
		}
	})
}
