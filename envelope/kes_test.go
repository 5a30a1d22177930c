package envelope_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keygate/keygate/envelope"
)

// The vector of docs/ciphertext.md: key 00..1f, iv 16 times aa, nonce 12 times
// bb, plaintext 32 times 11.
const (
	kesVector  = "e/un4UG8QqWpJ5MgeoNCJKvvhfUHzgAWAn/UyTB/Go+sll7dGO58XlxLP+HyW7ibqqqqqqqqqqqqqqqqqqqqqru7u7u7u7u7u7u7uw=="
	kesContext = `{"bucket":"bucket/object"}`
)

func kesKey() []byte {
	k := make([]byte, 32)
	for i := range k {
		k[i] = byte(i)
	}
	return k
}

func openKES(ciphertext, context []byte) ([]byte, error) {
	c, err := envelope.ParseKES(ciphertext)
	if err != nil {
		return nil, err
	}
	h := hmac.New(sha256.New, kesKey())
	h.Write(c.IV[:])
	return envelope.OpenKES(c, (*[32]byte)(h.Sum(nil)), context)
}

// kesForms are the vector in the three forms of KES.
func kesForms(t testing.TB) map[string][]byte {
	raw, err := base64.StdEncoding.DecodeString(kesVector)
	if err != nil {
		t.Fatal(err)
	}
	sealed, iv, nonce := raw[:48], raw[48:64], raw[64:]
	return map[string][]byte{
		"raw":                    raw,
		"json":                   kesJSON("AES-256-GCM-HMAC-SHA-256", iv, nonce, sealed),
		"messagepack":            kesMessagePack("AES256", iv, nonce, sealed),
		"messagepack, long name": kesMessagePack("AES256-GCM_SHA256", iv, nonce, sealed),
	}
}

func kesJSON(aead string, iv, nonce, sealed []byte) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return []byte(fmt.Sprintf(`{"aead":%q,"id":"0123456789abcdef0123456789abcdef","iv":%q,"nonce":%q,"bytes":%q}`, aead, b64(iv), b64(nonce), b64(sealed)))
}

// kesMessagePack writes each value in the shortest of MessagePack's forms.
func kesMessagePack(algorithm string, iv, nonce, sealed []byte) []byte {
	return slices.Concat([]byte{0x95}, packStr(algorithm), packStr("0123456789abcdef0123456789abcdef"), packBin(iv), packBin(nonce), packBin(sealed))
}

func packStr(s string) []byte {
	if len(s) < 32 {
		return append([]byte{0xa0 | byte(len(s))}, s...)
	}
	return append(packLength(0xd9, len(s)), s...)
}

func packBin(b []byte) []byte { return append(packLength(0xc4, len(b)), b...) }

// packLength writes a length in 1, 2 or 4 bytes behind first, first+1 or first+2.
func packLength(first byte, n int) []byte {
	switch {
	case n < 1<<8:
		return []byte{first, byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{first + 1}, uint16(n))
	}
	return binary.BigEndian.AppendUint32([]byte{first + 2}, uint32(n))
}

// sealKES makes a ciphertext under kesKey in each of the three forms.
func sealKES(t rapid.TB, iv, nonce, plaintext, context []byte) map[string][]byte {
	h := hmac.New(sha256.New, kesKey())
	h.Write(iv)
	sealed := sealGCM(t, nil, h.Sum(nil), nonce, plaintext, context)
	return map[string][]byte{
		"raw":         slices.Concat(sealed, iv, nonce),
		"json":        kesJSON("AES-256-GCM-HMAC-SHA-256", iv, nonce, sealed),
		"messagepack": kesMessagePack("AES256", iv, nonce, sealed),
	}
}

func TestKESFormsOpen(t *testing.T) {
	for form, c := range kesForms(t) {
		p, err := openKES(c, []byte(kesContext))
		if err != nil || !bytes.Equal(p, bytes.Repeat([]byte{0x11}, 32)) {
			t.Errorf("%s: opens to %x, error %v", form, p, err)
		}
		for _, context := range []string{"", "{}", kesContext + " "} {
			if _, err := openKES(c, []byte(context)); !errors.Is(err, envelope.ErrAuth) {
				t.Errorf("%s: context %q: %v", form, context, err)
			}
		}
	}
}

func TestKESFormsOpenWhateverTheyHold(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bytesOf := func(label string, low, high int) []byte {
			return rapid.SliceOfN(rapid.Byte(), low, high).Draw(rt, label)
		}
		plaintext, context := bytesOf("plaintext", 0, 400), bytesOf("context", 0, 80)
		for form, c := range sealKES(rt, bytesOf("iv", 16, 16), bytesOf("nonce", 12, 12), plaintext, context) {
			if p, err := openKES(c, context); err != nil || !bytes.Equal(p, plaintext) {
				rt.Errorf("%s: opens to %x, error %v", form, p, err)
			}
			if p, err := openKES(c, append(context, 0)); p != nil || !errors.Is(err, envelope.ErrAuth) {
				rt.Errorf("%s, other context: opens to %x, error %v", form, p, err)
			}
		}
	})
}

func TestCR16_EverySizeOfKESOpens(t *testing.T) {
	iv, nonce := bytes.Repeat([]byte{0xaa}, 16), bytes.Repeat([]byte{0xbb}, 12)
	for _, n := range []int{0, 16, 24, 32, 48, 64, 255, 256, 1 << 16, 1 << 20} {
		for form, c := range sealKES(t, iv, nonce, make([]byte, n), nil) {
			if p, err := openKES(c, nil); err != nil || len(p) != n {
				t.Errorf("%s of %d bytes: opens to %d, error %v", form, n, len(p), err)
			}
		}
	}
}

// TestCR09_EveryChangeOfAKESCiphertextIsRefused: KES authenticates neither the
// id of the older forms nor how a number or a name is written, so there a
// change may be without effect. None may give another plaintext.
func TestCR09_EveryChangeOfAKESCiphertextIsRefused(t *testing.T) {
	dek := bytes.Repeat([]byte{0x11}, 32)
	for form, c := range kesForms(t) {
		t.Run(form, func(t *testing.T) {
			refused := func(what string, b []byte) {
				t.Helper()
				p, err := openKES(b, []byte(kesContext))
				if err == nil && form != "raw" && bytes.Equal(p, dek) {
					return
				}
				if p != nil || !errors.Is(err, envelope.ErrAuth) && !errors.Is(err, envelope.ErrFormat) {
					t.Fatalf("%s: opens to %x, error %v", what, p, err)
				}
			}
			for bit := range len(c) * 8 {
				b := slices.Clone(c)
				b[bit/8] ^= 1 << (bit % 8)
				refused(fmt.Sprintf("bit %d", bit), b)
			}
			for n := range c {
				refused(fmt.Sprintf("truncated to %d", n), c[:n])
			}
			for n := 1; n <= 64; n++ {
				refused(fmt.Sprintf("extended by %d", n), append(slices.Clone(c), make([]byte, n)...))
			}
			refused("doubled", append(slices.Clone(c), c...))
		})
	}
}

func TestKESSizesAreBounded(t *testing.T) {
	for _, n := range []int{0, 43, envelope.MaxSize + 1} {
		if _, err := envelope.ParseKES(make([]byte, n)); !errors.Is(err, envelope.ErrFormat) {
			t.Errorf("%d bytes: error is %v", n, err)
		}
	}
}

func TestCR11_KESChaChaIsRefused(t *testing.T) {
	iv, nonce, sealed := make([]byte, 16), make([]byte, 12), make([]byte, 48)
	for _, c := range [][]byte{kesJSON("ChaCha20Poly1305", iv, nonce, sealed), kesMessagePack("ChaCha20", iv, nonce, sealed), kesMessagePack("XCHACHA20-POLY1305", iv, nonce, sealed)} {
		if _, err := envelope.ParseKES(c); !errors.Is(err, envelope.ErrUnsupported) {
			t.Errorf("error is %v", err)
		}
	}
}

func TestKESRawThatLooksOlderStillOpens(t *testing.T) {
	// A random ciphertext may begin with the first byte of an older form.
	for _, first := range []byte{'{', 0x95} {
		raw := append([]byte{first}, bytes.Repeat([]byte{0xff}, 75)...)
		c, err := envelope.ParseKES(raw)
		if err != nil || c.IV != [16]byte(bytes.Repeat([]byte{0xff}, 16)) {
			t.Errorf("%#x: %v", first, err)
		}
	}
}

// TestCR11_KESUnknownAlgorithmIsNotTried: what names another algorithm does not
// parse as an older form, so it is taken for the newest, which it is not.
func TestCR11_KESUnknownAlgorithmIsNotTried(t *testing.T) {
	raw := kesForms(t)["raw"]
	sealed, iv, nonce := raw[:48], raw[48:64], raw[64:]
	for _, name := range []string{"", "AES128", "aes256", "AES256 ", "none"} {
		for _, c := range [][]byte{kesJSON(name, iv, nonce, sealed), kesMessagePack(name, iv, nonce, sealed)} {
			if p, err := openKES(c, []byte(kesContext)); p != nil || !errors.Is(err, envelope.ErrAuth) {
				t.Errorf("%q: opens to %x, error %v", name, p, err)
			}
		}
	}
}
