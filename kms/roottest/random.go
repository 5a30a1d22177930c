package roottest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keygate/keygate/kms"
)

// randomSource: what Random fills is all of b, and never the same.
func randomSource(t *testing.T, r kms.Root) {
	seen := make(map[[kms.MaxRandom]byte]bool)
	for range 100 {
		b := bytes.Repeat([]byte{0}, kms.MaxRandom)
		if err := r.Random(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if k := [kms.MaxRandom]byte(b); seen[k] || k == [kms.MaxRandom]byte{} || bytes.Count(b[32:], []byte{0}) == 32 {
			t.Fatal("random bytes are not random, or not all were filled")
		} else {
			seen[k] = true
		}
	}
	if err := r.Random(t.Context(), make([]byte, kms.MaxRandom+1)); !errors.Is(err, kms.ErrUnsupported) {
		t.Errorf("more than MaxRandom bytes: error is %v", err)
	}
}
