package envelope_test

import (
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/c2sp/wycheproof"

	"github.com/keygate/keygate/envelope"
)

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
