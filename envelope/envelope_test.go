package envelope_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keygate/keygate/envelope"
)

var (
	keyID   = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	cluster = [16]byte{0xc1, 0xc2, 0xc3}
	header  = envelope.Header{Mode: envelope.Branch, KeyID: keyID, Version: 7}
	wrapped = bytes.Repeat([]byte{0x77}, 60)
	key     = [32]byte{0x42}
)

func branchAEAD(t testing.TB) cipher.AEAD {
	t.Helper()
	aead, err := envelope.NewBranchAEAD(&key)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

// open opens a whole Branch ciphertext.
func open(aead cipher.AEAD, cluster [16]byte, ciphertext, context []byte) ([]byte, error) {
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

func TestHeader(t *testing.T) {
	for _, h := range []envelope.Header{{envelope.Direct, keyID, 1}, {envelope.Branch, [16]byte{}, 1<<32 - 1}} {
		b := append(h.Append(nil), 0xaa)
		if len(b) != envelope.HeaderSize+1 {
			t.Errorf("header of %d bytes", len(b)-1)
		}
		got, body, err := envelope.Parse(b)
		if err != nil || got != h || !bytes.Equal(body, []byte{0xaa}) {
			t.Errorf("parses to %+v, body %x, error %v", got, body, err)
		}
	}
}

func TestParseRefusesWhatIsNotOurs(t *testing.T) {
	good := append(header.Append(nil), 0)
	edit := func(i int, b byte) []byte { c := slices.Clone(good); c[i] = b; return c }
	for name, b := range map[string][]byte{
		"empty": nil, "no body": good[:24], "magic": edit(0, 'k'), "format 0": edit(2, 0), "format 2": edit(2, 2),
		"mode 0": edit(3, 0), "mode 3": edit(3, 3), "version 0": edit(23, 0), "too large": make([]byte, envelope.MaxSize+1),
	} {
		if _, _, err := envelope.Parse(b); !errors.Is(err, envelope.ErrFormat) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestAdditionalDataBindsAll(t *testing.T) {
	base := envelope.AdditionalData(header, cluster, []byte("abc"))
	if len(base) != envelope.AdditionalDataSize {
		t.Errorf("%d bytes", len(base))
	}
	if !bytes.Equal(envelope.AdditionalData(header, cluster, nil), envelope.AdditionalData(header, cluster, []byte{})) {
		t.Error("absent and empty context differ")
	}
	direct, version, id := header, header, header
	direct.Mode, version.Version, id.KeyID = envelope.Direct, 8, [16]byte{}
	for name, other := range map[string][]byte{
		"mode": envelope.AdditionalData(direct, cluster, []byte("abc")), "version": envelope.AdditionalData(version, cluster, []byte("abc")),
		"key": envelope.AdditionalData(id, cluster, []byte("abc")), "cluster": envelope.AdditionalData(header, [16]byte{}, []byte("abc")),
		"context": envelope.AdditionalData(header, cluster, []byte("abcd")), "branch": envelope.WrapAdditionalData(header, cluster),
	} {
		if bytes.Equal(base, other) {
			t.Errorf("%s is not bound", name)
		}
	}
}

func TestCR16_EverySizeRoundTrips(t *testing.T) {
	aead := branchAEAD(t)
	for _, n := range []int{0, 1, 16, 24, 32, 48, 64, 4096, 1 << 20} {
		plaintext := bytes.Repeat([]byte{3}, n)
		c := envelope.AppendBranch(nil, header, cluster, wrapped, aead, plaintext, []byte("ctx"))
		if want := envelope.HeaderSize + 2 + len(wrapped) + 12 + n + 16; len(c) != want {
			t.Errorf("%d bytes: ciphertext of %d, not %d", n, len(c), want)
		}
		got, err := open(aead, cluster, c, []byte("ctx"))
		if err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestCR08_OtherContextClusterOrWrappedKeyIsRefused(t *testing.T) {
	aead := branchAEAD(t)
	c := envelope.AppendBranch(nil, header, cluster, wrapped, aead, []byte("secret"), []byte("abc"))
	for _, context := range []string{"", "ab", "abcd", "abC"} {
		if _, err := open(aead, cluster, c, []byte(context)); !errors.Is(err, envelope.ErrAuth) {
			t.Errorf("context %q: %v", context, err)
		}
	}
	if _, err := open(aead, [16]byte{1}, c, []byte("abc")); !errors.Is(err, envelope.ErrAuth) {
		t.Errorf("other cluster: %v", err)
	}
	key2 := [32]byte{0x43}
	aead2, err := envelope.NewBranchAEAD(&key2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(aead2, cluster, c, []byte("abc")); !errors.Is(err, envelope.ErrAuth) {
		t.Errorf("other branch key: %v", err)
	}
}

func TestCR09_EveryChangeIsRefused(t *testing.T) {
	aead := branchAEAD(t)
	c := envelope.AppendBranch(nil, header, cluster, wrapped, aead, bytes.Repeat([]byte{5}, 32), nil)
	refused := func(what string, b []byte) {
		t.Helper()
		p, err := open(aead, cluster, b, nil)
		if p != nil || !errors.Is(err, envelope.ErrAuth) && !errors.Is(err, envelope.ErrFormat) {
			t.Fatalf("%s: plaintext of %d bytes, error %v", what, len(p), err)
		}
	}
	for n := range c {
		refused(fmt.Sprintf("truncated to %d", n), c[:n])
	}
	for n := 1; n <= 64; n++ {
		refused(fmt.Sprintf("extended by %d", n), append(slices.Clone(c), make([]byte, n)...))
	}
	for bit := range len(c) * 8 {
		b := slices.Clone(c)
		b[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("bit %d", bit), b)
	}
	refused("doubled", append(slices.Clone(c), c...))
}

// A golden is one ciphertext that every release must open. The files were made
// by seal below, which shares no code with the package, with fixed nonces.
type golden struct {
	Comment    string `json:"comment"`
	Mode       string `json:"mode"`
	Key        string `json:"key"` // the master key for direct, the branch key for branch
	Cluster    string `json:"cluster"`
	KeyID      string `json:"key_id"`
	Version    uint32 `json:"version"`
	Context    string `json:"context"`
	Nonce      string `json:"nonce"`
	Wrapped    string `json:"wrapped,omitempty"`
	Plaintext  string `json:"plaintext"`
	Ciphertext string `json:"ciphertext"`
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seal makes the golden's ciphertext from docs/ciphertext.md.
func (g golden) seal(t *testing.T) []byte {
	block, err := aes.NewCipher(unhex(t, g.Key))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	out := []byte{0x4b, 0x47, 1, map[string]byte{"direct": 1, "branch": 2}[g.Mode]}
	out = append(out, unhex(t, g.KeyID)...)
	out = binary.BigEndian.AppendUint32(out, g.Version)
	sum := sha256.Sum256(unhex(t, g.Context))
	ad := slices.Concat(out, unhex(t, g.Cluster), sum[:])
	if g.Mode == "branch" {
		w := unhex(t, g.Wrapped)
		ad = append(ad, w...)
		out = append(out, byte(len(w)>>8), byte(len(w)))
		out = append(out, w...)
	}
	out = append(out, unhex(t, g.Nonce)...)
	return gcm.Seal(out, unhex(t, g.Nonce), unhex(t, g.Plaintext), ad)
}

func TestCR15_GoldenFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var g golden
			if err := json.Unmarshal(b, &g); err != nil {
				t.Fatal(err)
			}
			c := unhex(t, g.Ciphertext)
			h, body, err := envelope.Parse(c)
			if err != nil || h.Mode.String() != g.Mode || hex.EncodeToString(h.KeyID[:]) != g.KeyID || h.Version != g.Version {
				t.Fatalf("header is %+v, error %v", h, err)
			}
			cluster, context := [16]byte(unhex(t, g.Cluster)), unhex(t, g.Context)
			aead, err := envelope.NewBranchAEAD((*[32]byte)(unhex(t, g.Key)))
			if err != nil {
				t.Fatal(err)
			}
			var plaintext []byte
			if h.Mode == envelope.Branch {
				plaintext, err = open(aead, cluster, c, context)
			} else {
				// What an HSM holds the key for: nonce, ciphertext, tag.
				plaintext, err = aead.Open(nil, nil, body, envelope.AdditionalData(h, cluster, context))
			}
			if err != nil || hex.EncodeToString(plaintext) != g.Plaintext {
				t.Errorf("opens to %x, error %v", plaintext, err)
			}
		})
	}
}

// TestGoldenFilesAreWhatTheDocumentSays makes each file's ciphertext again from
// its fields. It needs a caller-chosen nonce, which FIPS 140 mode forbids.
func TestGoldenFilesAreWhatTheDocumentSays(t *testing.T) {
	if fips140Only() {
		t.Skip("makes ciphertexts with fixed nonces, which fips140=only forbids")
	}
	update := os.Getenv("UPDATE_GOLDEN") != ""
	files, _ := filepath.Glob("testdata/golden/*.json")
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var g golden
		if err := json.Unmarshal(b, &g); err != nil {
			t.Fatal(err)
		}
		made := hex.EncodeToString(g.seal(t))
		if update && g.Ciphertext == "" {
			g.Ciphertext = made
			b, _ := json.MarshalIndent(g, "", "  ")
			if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if g.Ciphertext != made {
			t.Errorf("%s: the document's ciphertext is %s", file, made)
		}
	}
}

func fips140Only() bool {
	g := os.Getenv("GODEBUG")
	return bytes.Contains([]byte(g), []byte("fips140=only"))
}

func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, err := envelope.Parse(b)
		if err != nil {
			return
		}
		if again := append(h.Append(nil), body...); !bytes.Equal(again, b) {
			t.Fatalf("%x parses, but is %x when written again", b, again)
		}
		if wrapped, sealed, err := envelope.ParseBranch(body); err == nil && 2+len(wrapped)+len(sealed) != len(body) {
			t.Fatal("bytes of the body were lost")
		}
	})
}

func TestFuzzTargetsHaveSeeds(t *testing.T) {
	for _, target := range []string{"FuzzParse", "FuzzParseKES"} {
		if seeds, _ := filepath.Glob("testdata/fuzz/" + target + "/*"); len(seeds) < 3 {
			t.Errorf("%s has %d seeds", target, len(seeds))
		}
	}
}

func BenchmarkAppendBranch(b *testing.B) {
	aead, dst, dek := branchAEAD(b), make([]byte, 0, 256), make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		envelope.AppendBranch(dst, header, cluster, wrapped, aead, dek, []byte(`{"bucket":"bucket/object"}`))
	}
}

func BenchmarkOpenBranch(b *testing.B) {
	aead := branchAEAD(b)
	c := envelope.AppendBranch(nil, header, cluster, wrapped, aead, make([]byte, 32), nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := open(aead, cluster, c, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func ExampleParse() {
	h := envelope.Header{Mode: envelope.Direct, KeyID: [16]byte{0xab}, Version: 3}
	ciphertext := append(h.Append(nil), "what the root of trust made"...)
	got, body, err := envelope.Parse(ciphertext)
	fmt.Println(got.Mode, got.Version, len(body), err)
	// Output: direct 3 27 <nil>
}
