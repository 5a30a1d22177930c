package envelope_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keygate/keygate/envelope"
)

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

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seal makes the golden's ciphertext from docs/ciphertext.md.
func (g golden) seal(t *testing.T) []byte {
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
	return sealGCM(t, out, unhex(t, g.Key), unhex(t, g.Nonce), unhex(t, g.Plaintext), ad)
}

// sealGCM appends AES-256-GCM ciphertext and tag to dst. GODEBUG=fips140=only
// forbids a nonce of the caller's choice; vectors need one.
func sealGCM(t rapid.TB, dst, key, nonce, plaintext, additionalData []byte) (out []byte) {
	t.Helper()
	fips140.WithoutEnforcement(func() {
		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		out = gcm.Seal(dst, nonce, plaintext, additionalData)
	})
	return out
}

// goldenFiles returns the names of all golden files. None is ever removed.
func goldenFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/golden/*.json")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d golden files, error %v", len(files), err)
	}
	return files
}

func TestCR15_GoldenFiles(t *testing.T) {
	files := goldenFiles(t)
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
				plaintext, err = openBranch(aead, cluster, c, context)
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
// its fields.
func TestGoldenFilesAreWhatTheDocumentSays(t *testing.T) {
	update := os.Getenv("UPDATE_GOLDEN") != ""
	files := goldenFiles(t)
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
			b, err := json.MarshalIndent(g, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if g.Ciphertext != made {
			t.Errorf("%s: the document's ciphertext is %s", file, made)
		}
	}
}
