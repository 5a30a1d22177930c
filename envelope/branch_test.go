package envelope_test

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keygate/keygate/envelope"
)

var (
	wrapped = bytes.Repeat([]byte{0x77}, 60)
	key     = [32]byte{0x42}
)

func newAEAD(t rapid.TB, key [32]byte) cipher.AEAD {
	t.Helper()
	aead, err := envelope.NewBranchAEAD(&key)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

// openBranch opens a whole Branch ciphertext.
func openBranch(aead cipher.AEAD, cluster [16]byte, ciphertext, context []byte) ([]byte, error) {
	h, body, err := envelope.Parse(ciphertext)
	if err != nil {
		return nil, err
	}
	wrapped, sealed, err := envelope.ParseBranch(body)
	if err != nil {
		return nil, err
	}
	return envelope.OpenBranch(nil, h, cluster, wrapped, aead, sealed, context)
}

// sealDirect and openDirect do what kms does in direct mode, with an AEAD in
// the place of the root of trust.
func sealDirect(aead cipher.AEAD, h envelope.Header, cluster [16]byte, plaintext, context []byte) []byte {
	return aead.Seal(h.Append(nil), nil, plaintext, envelope.AdditionalData(h, cluster, context))
}

func openDirect(aead cipher.AEAD, cluster [16]byte, ciphertext, context []byte) ([]byte, error) {
	h, body, err := envelope.Parse(ciphertext)
	if err != nil {
		return nil, err
	}
	if plaintext, err := aead.Open(nil, nil, body, envelope.AdditionalData(h, cluster, context)); err == nil {
		return plaintext, nil
	}
	return nil, envelope.ErrAuth
}

func TestCR16_EverySizeRoundTrips(t *testing.T) {
	aead := newAEAD(t, key)
	for _, n := range []int{0, 1, 16, 24, 32, 48, 64, 4096, envelope.MaxPlaintext} {
		plaintext := bytes.Repeat([]byte{3}, n)
		c := envelope.AppendBranch(nil, header, cluster, wrapped, aead, plaintext, []byte("ctx"))
		if want := envelope.HeaderSize + 2 + len(wrapped) + 12 + n + 16; len(c) != want {
			t.Errorf("%d bytes: ciphertext of %d, not %d", n, len(c), want)
		}
		got, err := openBranch(aead, cluster, c, []byte("ctx"))
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestCR16_LargestCiphertextIsParsed(t *testing.T) {
	aead, largest := newAEAD(t, key), make([]byte, envelope.MaxWrapped)
	c := envelope.AppendBranch(nil, header, cluster, largest, aead, make([]byte, envelope.MaxPlaintext), nil)
	if p, err := openBranch(aead, cluster, c, nil); err != nil || len(p) != envelope.MaxPlaintext {
		t.Errorf("opens to %d bytes, error %v", len(p), err)
	}
}

func TestBranchAppendsAndOpensBehindWhatIsThere(t *testing.T) {
	aead := newAEAD(t, key)
	c := envelope.AppendBranch([]byte("before"), header, cluster, wrapped, aead, []byte("secret"), nil)
	c, ok := bytes.CutPrefix(c, []byte("before"))
	if !ok {
		t.Fatalf("%q is gone", "before")
	}
	h, body, err := envelope.Parse(c)
	if err != nil {
		t.Fatal(err)
	}
	w, sealed, err := envelope.ParseBranch(body)
	if err != nil || !bytes.Equal(w, wrapped) {
		t.Fatalf("wrapped branch key %x, error %v", w, err)
	}
	p, err := envelope.OpenBranch([]byte("before "), h, cluster, w, aead, sealed, nil)
	if err != nil || string(p) != "before secret" {
		t.Errorf("opens to %q, error %v", p, err)
	}
}

func TestAppendBranchNeverMakesWhatCannotBeOpened(t *testing.T) {
	aead := newAEAD(t, key)
	direct, unversioned := header, header
	direct.Mode, unversioned.Version = envelope.Direct, 0
	for name, seal := range map[string]func(){
		"direct header": func() { envelope.AppendBranch(nil, direct, cluster, wrapped, aead, nil, nil) },
		"version 0":     func() { envelope.AppendBranch(nil, unversioned, cluster, wrapped, aead, nil, nil) },
		"no branch key": func() { envelope.AppendBranch(nil, header, cluster, nil, aead, nil, nil) },
		"long branch key": func() {
			envelope.AppendBranch(nil, header, cluster, make([]byte, envelope.MaxWrapped+1), aead, nil, nil)
		},
		"too long for 16bit": func() { envelope.AppendBranch(nil, header, cluster, make([]byte, 1<<16+60), aead, nil, nil) },
		"long plaintext": func() {
			envelope.AppendBranch(nil, header, cluster, wrapped, aead, make([]byte, envelope.MaxPlaintext+1), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("a ciphertext is made")
				}
			}()
			seal()
		})
	}
}

func TestParseBranchRefusesWhatIsNotABody(t *testing.T) {
	body := func(n int, rest int) []byte { return append([]byte{byte(n >> 8), byte(n)}, make([]byte, rest)...) }
	for name, b := range map[string][]byte{
		"empty": nil, "half a length": {0}, "no wrapped key": body(0, 28), "nothing behind": body(60, 60),
		"no tag": body(60, 60+27), "long wrapped key": body(4097, 4097+28), "lying length": body(65535, 100),
	} {
		if w, s, err := envelope.ParseBranch(b); !errors.Is(err, envelope.ErrFormat) || w != nil || s != nil {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if w, s, err := envelope.ParseBranch(body(4096, 4096+28)); err != nil || len(w) != 4096 || len(s) != 28 {
		t.Errorf("the longest wrapped key: %d and %d bytes, error %v", len(w), len(s), err)
	}
}

// TestCR08_AnythingElseThatIsBoundIsRefused draws a ciphertext and opens it with
// each of the bound values exchanged for another one.
func TestCR08_AnythingElseThatIsBoundIsRefused(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		id := func(label string) [16]byte { return [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, label)) }
		some := rapid.SliceOfN(rapid.Byte(), 0, 80)
		h := envelope.Header{Mode: envelope.Branch, KeyID: id("key id"), Version: rapid.Uint32Min(1).Draw(rt, "version")}
		cluster, context, plaintext := id("cluster"), some.Draw(rt, "context"), some.Draw(rt, "plaintext")
		wrapped := rapid.SliceOfN(rapid.Byte(), 1, 80).Draw(rt, "wrapped")
		aead := newAEAD(rt, key)
		_, body, err := envelope.Parse(envelope.AppendBranch(nil, h, cluster, wrapped, aead, plaintext, context))
		if err != nil {
			rt.Fatal(err)
		}
		_, sealed, err := envelope.ParseBranch(body)
		if err != nil {
			rt.Fatal(err)
		}
		if p, err := envelope.OpenBranch(nil, h, cluster, wrapped, aead, sealed, context); err != nil || !bytes.Equal(p, plaintext) {
			rt.Fatalf("does not open: %v", err)
		}
		refused := func(what string, h envelope.Header, cluster [16]byte, wrapped []byte, aead cipher.AEAD, context []byte) {
			p, err := envelope.OpenBranch(nil, h, cluster, wrapped, aead, sealed, context)
			if p != nil || !errors.Is(err, envelope.ErrAuth) {
				rt.Errorf("other %s: plaintext of %d bytes, error %v", what, len(p), err)
			}
		}
		otherID, otherVersion, otherMode, otherCluster := h, h, h, cluster
		otherID.KeyID[rapid.IntRange(0, 15).Draw(rt, "byte of the id")] ^= 1
		otherVersion.Version++
		otherMode.Mode = envelope.Direct
		otherCluster[rapid.IntRange(0, 15).Draw(rt, "byte of the cluster")] ^= 0x80
		refused("key id", otherID, cluster, wrapped, aead, context)
		refused("key version", otherVersion, cluster, wrapped, aead, context)
		refused("mode", otherMode, cluster, wrapped, aead, context)
		refused("cluster", h, otherCluster, wrapped, aead, context)
		refused("branch key", h, cluster, wrapped, newAEAD(rt, [32]byte{0x43}), context)
		refused("wrapped branch key", h, cluster, append([]byte{wrapped[0] ^ 1}, wrapped[1:]...), aead, context)
		refused("context, longer", h, cluster, wrapped, aead, append(slices.Clone(context), 0))
		if len(context) > 0 {
			refused("context, shorter", h, cluster, wrapped, aead, context[:len(context)-1])
			refused("context, none", h, cluster, wrapped, aead, nil)
		}
		// No boundary can move: the end of the wrapped key into the context.
		refused("boundary", h, cluster, wrapped[:len(wrapped)-1], aead, append(wrapped[len(wrapped)-1:len(wrapped):len(wrapped)], context...))
	})
}

func TestCR08_AbsentAndEmptyContextAreTheSame(t *testing.T) {
	aead := newAEAD(t, key)
	for _, context := range [][]byte{nil, {}} {
		c := envelope.AppendBranch(nil, header, cluster, wrapped, aead, []byte("secret"), context)
		for _, again := range [][]byte{nil, {}} {
			if _, err := openBranch(aead, cluster, c, again); err != nil {
				t.Errorf("made with %#v, opened with %#v: %v", context, again, err)
			}
		}
	}
}

func TestCR12_ACiphertextCommitsToItsBranchKey(t *testing.T) {
	aead := newAEAD(t, key)
	c := envelope.AppendBranch(nil, header, cluster, wrapped, aead, []byte("secret"), nil)
	rewrapped := bytes.Repeat([]byte{0x78}, len(wrapped)) // the same branch key, wrapped again
	copy(c[envelope.HeaderSize+2:], rewrapped)
	if p, err := openBranch(aead, cluster, c, nil); p != nil || !errors.Is(err, envelope.ErrAuth) {
		t.Errorf("opens to %d bytes, error %v", len(p), err)
	}
}

func TestCR09_EveryChangeIsRefused(t *testing.T) {
	aead, dek := newAEAD(t, key), bytes.Repeat([]byte{5}, 32)
	direct := envelope.Header{Mode: envelope.Direct, KeyID: keyID, Version: 7}
	t.Run("branch", func(t *testing.T) {
		refusesEveryChange(t, envelope.AppendBranch(nil, header, cluster, wrapped, aead, dek, nil), func(c []byte) ([]byte, error) {
			return openBranch(aead, cluster, c, nil)
		})
	})
	t.Run("direct", func(t *testing.T) {
		refusesEveryChange(t, sealDirect(aead, direct, cluster, dek, nil), func(c []byte) ([]byte, error) {
			return openDirect(aead, cluster, c, nil)
		})
	})
}

// refusesEveryChange changes a ciphertext in each way that CR-09 names.
func refusesEveryChange(t *testing.T, c []byte, open func([]byte) ([]byte, error)) {
	refused := func(what string, b []byte) {
		t.Helper()
		p, err := open(b)
		if p != nil || !errors.Is(err, envelope.ErrAuth) && !errors.Is(err, envelope.ErrFormat) {
			t.Fatalf("%s: plaintext of %d bytes, error %v", what, len(p), err)
		}
	}
	if _, err := open(c); err != nil {
		t.Fatalf("unchanged: %v", err)
	}
	for n := range c {
		refused(fmt.Sprintf("truncated to %d", n), c[:n])
		refused(fmt.Sprintf("without the first %d", n+1), c[n+1:])
	}
	for n := 1; n <= 64; n++ {
		refused(fmt.Sprintf("extended by %d", n), append(slices.Clone(c), make([]byte, n)...))
		refused(fmt.Sprintf("%d in front", n), append(make([]byte, n), c...))
	}
	for bit := range len(c) * 8 {
		b := slices.Clone(c)
		b[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("bit %d", bit), b)
	}
	refused("doubled", append(slices.Clone(c), c...))
	refused("body doubled", append(slices.Clone(c), c[envelope.HeaderSize:]...))
}

func TestCR09_ConcatenatedCiphertextsAreRefused(t *testing.T) {
	aead := newAEAD(t, key)
	a := envelope.AppendBranch(nil, header, cluster, wrapped, aead, []byte("a"), nil)
	b := envelope.AppendBranch(nil, header, cluster, wrapped, aead, []byte("b"), nil)
	head := envelope.HeaderSize + 2 + len(wrapped)
	for name, c := range map[string][]byte{
		"a, b": slices.Concat(a, b), "a, body of b": slices.Concat(a, b[envelope.HeaderSize:]),
		"a, sealed part of b": slices.Concat(a, b[head:]), "nonce of a, rest of b": slices.Concat(a[:head+12], b[head+12:]),
	} {
		if p, err := openBranch(aead, cluster, c, nil); p != nil || !errors.Is(err, envelope.ErrAuth) {
			t.Errorf("%s: plaintext of %d bytes, error %v", name, len(p), err)
		}
	}
}

func BenchmarkAppendBranch(b *testing.B) {
	aead, dst, dek := newAEAD(b, key), make([]byte, 0, 256), make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		envelope.AppendBranch(dst, header, cluster, wrapped, aead, dek, []byte(`{"bucket":"bucket/object"}`))
	}
}

func BenchmarkOpenBranch(b *testing.B) {
	aead := newAEAD(b, key)
	c := envelope.AppendBranch(nil, header, cluster, wrapped, aead, make([]byte, 32), nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := openBranch(aead, cluster, c, nil); err != nil {
			b.Fatal(err)
		}
	}
}
