package envelope_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"

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
	b, _ := json.Marshal(map[string]any{"aead": aead, "id": "some-id", "iv": iv, "nonce": nonce, "bytes": sealed})
	return b
}

func kesMessagePack(algorithm string, iv, nonce, sealed []byte) []byte {
	str := func(s string) []byte { return append([]byte{0xa0 | byte(len(s))}, s...) }
	bin := func(b []byte) []byte { return append([]byte{0xc4, byte(len(b))}, b...) }
	return slices.Concat([]byte{0x95}, str(algorithm), str("0123456789abcdef"), bin(iv), bin(nonce), bin(sealed))
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

func TestCR09_EveryChangedBitOfAKESCiphertextIsRefused(t *testing.T) {
	for form, c := range kesForms(t) {
		for bit := range len(c) * 8 {
			b := slices.Clone(c)
			b[bit/8] ^= 1 << (bit % 8)
			p, err := openKES(b, []byte(kesContext))
			if err == nil && form != "raw" && bytes.Equal(p, bytes.Repeat([]byte{0x11}, 32)) {
				continue // the id and the case of JSON field names are not authenticated by KES
			}
			if !errors.Is(err, envelope.ErrAuth) && !errors.Is(err, envelope.ErrFormat) {
				t.Fatalf("%s: bit %d: opens to %x, error %v", form, bit, p, err)
			}
		}
		for n := range c {
			if _, err := openKES(c[:n], []byte(kesContext)); !errors.Is(err, envelope.ErrAuth) && !errors.Is(err, envelope.ErrFormat) {
				t.Fatalf("%s: truncated to %d: %v", form, n, err)
			}
		}
	}
}

func TestKESChaChaIsRefused(t *testing.T) {
	iv, nonce, sealed := make([]byte, 16), make([]byte, 12), make([]byte, 48)
	for _, c := range [][]byte{kesJSON("ChaCha20Poly1305", iv, nonce, sealed), kesMessagePack("ChaCha20", iv, nonce, sealed), kesMessagePack("XCHACHA20-POLY1305", iv, nonce, sealed)} {
		if _, err := envelope.ParseKES(c); !errors.Is(err, envelope.ErrFormat) {
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

func FuzzParseKES(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := envelope.ParseKES(b)
		if err != nil {
			return
		}
		if _, err := envelope.OpenKES(c, new([32]byte), nil); err == nil {
			t.Fatal("opens under the zero key")
		}
	})
}

// TestCR01_WycheproofAESGCM runs the vectors through the primitive that opens
// KES and branch ciphertexts. It takes 256-bit keys, 96-bit nonces and 128-bit
// tags only; the other groups are listed.
func TestCR01_WycheproofAESGCM(t *testing.T) {
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			IVSize, KeySize, TagSize int
			Tests                    []struct {
				TCID                               int
				Key, IV, AAD, Msg, CT, Tag, Result string
			}
		}
	}
	b, err := fs.ReadFile(wycheproof.TestVectors, "aes_gcm_test.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	ran, skipped := 0, 0
	for _, g := range file.TestGroups {
		if g.KeySize != 256 || g.IVSize != 96 || g.TagSize != 128 {
			t.Logf("not used: %d vectors with key %d, IV %d, tag %d bits", len(g.Tests), g.KeySize, g.IVSize, g.TagSize)
			skipped += len(g.Tests)
			continue
		}
		for _, tc := range g.Tests {
			aead, err := envelope.NewBranchAEAD((*[32]byte)(unhex(t, tc.Key)))
			if err != nil {
				t.Fatal(err)
			}
			p, err := aead.Open(nil, nil, slices.Concat(unhex(t, tc.IV), unhex(t, tc.CT), unhex(t, tc.Tag)), unhex(t, tc.AAD))
			if valid := tc.Result == "valid"; valid != (err == nil) || valid && hex.EncodeToString(p) != strings.ToLower(tc.Msg) {
				t.Errorf("%d (%s): %v", tc.TCID, tc.Result, err)
			}
			ran++
		}
	}
	if ran+skipped != file.NumberOfTests || ran < 60 {
		t.Errorf("%d ran, %d skipped, of %d", ran, skipped, file.NumberOfTests)
	}
	t.Logf("%d vectors ran", ran)
}

// TestMessagePackLengthsAreBounded: a length that lies takes no memory.
func TestMessagePackLengthsAreBounded(t *testing.T) {
	lie := slices.Concat([]byte{0x95, 0xdb}, binary.BigEndian.AppendUint32(nil, 1<<31), make([]byte, 60))
	n := testing.AllocsPerRun(10, func() {
		if _, err := envelope.ParseKES(lie); err != nil {
			t.Error(err) // taken for the newest form
		}
	})
	if n > 2 {
		t.Errorf("%v allocations", n)
	}
}
