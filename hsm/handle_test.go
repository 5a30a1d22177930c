package hsm

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/keygate/keygate/kms"
)

// The layout of handles is stored for ever: these bytes never change.
const (
	goldenEncryption     = "010101" + "000102030405060708090a0b0c0d0e0f" + "a0a1a2a3a4a5a6a7" + "0028" + "11111111111111111111111111111111111111111111111111111111111111111111111111111111" + "22222222222222222222222222222222222222222222222222222222"
	goldenAuthentication = "010102" + "000102030405060708090a0b0c0d0e0f" + "a0a1a2a3a4a5a6a7" + "0028" + "11111111111111111111111111111111111111111111111111111111111111111111111111111111" + "22222222222222222222222222222222"
)

// Of other wrappings: the size of the wrapped key, and that, before the check.
const (
	goldenHead = "000102030405060708090a0b0c0d0e0f" + "a0a1a2a3a4a5a6a7"
	goldenKWP  = "010201" + goldenHead + "0028" + "11111111111111111111111111111111111111111111111111111111111111111111111111111111"
	goldenGCM  = "010401" + goldenHead + "003c" + "111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111"
	goldenIn   = "010701" + goldenHead + "0000"
)

func golden(purpose kms.Purpose) keyHandle { return goldenOf(wrapKW, purpose) }

func goldenOf(w wrapping, purpose kms.Purpose) keyHandle {
	size, _ := w.size()
	h := keyHandle{wrapping: w, purpose: purpose, kek: kekID{0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7}, wrapped: bytes.Repeat([]byte{0x11}, size)}
	for i := range h.id {
		h.id[i] = byte(i)
	}
	h.check = bytes.Repeat([]byte{0x22}, h.checkSize())
	return h
}

func TestCR15_HandleBytes(t *testing.T) {
	for purpose, want := range map[kms.Purpose]string{kms.Encryption: goldenEncryption, kms.Authentication: goldenAuthentication} {
		if got := hex.EncodeToString(golden(purpose).marshal()); got != want {
			t.Errorf("purpose %d:\n got %s\nwant %s", purpose, got, want)
		}
	}
	for w, want := range map[wrapping]string{wrapKWP: goldenKWP, wrapGCM: goldenGCM, inToken: goldenIn} {
		want += strings.Repeat("22", gcmCheckSize)
		if got := hex.EncodeToString(goldenOf(w, kms.Encryption).marshal()); got != want {
			t.Errorf("%v:\n got %s\nwant %s", w, got, want)
		}
	}
}

// One bit that changes makes no other wrapping of a wrapping.
func TestCR07_WrappingsAreTwoBitsApart(t *testing.T) {
	for _, a := range []wrapping{wrapKW, wrapKWP, wrapGCM, inToken} {
		for bit := range 8 {
			if _, known := (a ^ 1<<bit).size(); known {
				t.Errorf("%d and %d differ in one bit", a, a^1<<bit)
			}
		}
	}
}

func TestHandleFieldsThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		name   string
		offset int
		value  byte
	}{
		{"format", 0, 0}, {"format", 0, 2}, {"wrapping", 1, 0}, {"wrapping", 1, 3}, {"wrapping", 1, 4}, {"wrapping", 1, 5},
		{"purpose", 2, 0}, {"purpose", 2, 2}, {"purpose", 2, 3}, {"size", 27, 1}, {"size", 28, 0}, {"size", 28, 39}, {"size", 28, 41},
	} {
		b := golden(kms.Encryption).marshal()
		b[test.offset] = test.value
		if _, err := parseHandle(b); !errors.Is(err, kms.ErrCorrupt) {
			t.Errorf("%s %d: error is %v", test.name, test.value, err)
		}
	}
}

func FuzzHandle(f *testing.F) {
	for _, purpose := range []kms.Purpose{kms.Encryption, kms.Authentication} {
		for _, w := range []wrapping{wrapKW, wrapKWP, wrapGCM, inToken} {
			f.Add(goldenOf(w, purpose).marshal())
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHandle(b)
		if err != nil {
			if !errors.Is(err, kms.ErrCorrupt) {
				t.Errorf("error is %v", err)
			}
			return
		}
		if !bytes.Equal(h.marshal(), b) {
			t.Errorf("%x comes back as %x", b, h.marshal())
		}
	})
}

func TestFuzzHandleHasSeeds(t *testing.T) {
	seeds, err := os.ReadDir("testdata/fuzz/FuzzHandle")
	if err != nil || len(seeds) == 0 {
		t.Fatalf("%d seeds, %v", len(seeds), err)
	}
}
