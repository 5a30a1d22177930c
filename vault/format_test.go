package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keygate/keygate/kms"
)

// golden are handles as the first release wrote them: each later one reads them.
func golden() map[string]keyHandle {
	id := kms.KeyID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	return map[string]keyHandle{
		"0101000102030405060708090a0b0c0d0e0f39" + hex.EncodeToString([]byte("keygate-000102030405060708090a0b0c0d0e0f-1011121314151617")) +
			"31" + hex.EncodeToString([]byte("vault:v1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGw==")) + "903f8fa2765fce69": {
			purpose: kms.Encryption, id: id, name: "keygate-000102030405060708090a0b0c0d0e0f-1011121314151617", check: []byte("vault:v1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGw=="),
		},
		"0102000102030405060708090a0b0c0d0e0f33" + hex.EncodeToString([]byte("a_000102030405060708090a0b0c0d0e0f-1011121314151617")) +
			"20" + strings.Repeat("07", 32) + "1f9707526c03c6c5": {
			purpose: kms.Authentication, id: id, name: "a_000102030405060708090a0b0c0d0e0f-1011121314151617", check: bytes.Repeat([]byte{7}, 32),
		},
	}
}

func TestHandleGolden(t *testing.T) {
	for text, want := range golden() {
		b := unhex(t, text)
		if got := want.marshal(); !bytes.Equal(got, b) {
			t.Errorf("marshal: got\n%x, want\n%x", got, b)
		}
		got, err := parseHandle(b)
		if err != nil || got.purpose != want.purpose || got.id != want.id || got.name != want.name || !bytes.Equal(got.check, want.check) {
			t.Errorf("parse: got %+v, error %v", got, err)
		}
	}
}

func FuzzHandle(f *testing.F) {
	n := 0
	for text := range golden() {
		b, err := hex.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		n++
	}
	if n == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHandle(b)
		if err != nil {
			if !errors.Is(err, kms.ErrCorrupt) {
				t.Fatalf("error is %v", err)
			}
			return
		}
		if strings.ContainsAny(h.name, "/.%?#") {
			t.Fatalf("the name %q changes a path", h.name)
		}
		if !bytes.Equal(h.marshal(), b) {
			t.Fatal("another handle reads the same")
		}
	})
}

// Of each value there is one form.
func TestValuesHaveOneForm(t *testing.T) {
	for text, want := range map[string]bool{
		"vault:v1:AAAA": true, "vault:v12:AAE=": true, "vault:v1:": true, "vault:v2147483647:AA==": true,
		"vault:v0:AAAA": false, "vault:v01:AAAA": false, "vault:v+1:AAAA": false, "vault:v2147483648:AAAA": false, "vault:v-1:AAAA": false,
		"vault:v1:AAF=": false, "vault:v1:AAE": false, "vault:v1:AA\nE=": false, "vault:v1:AAE=\n": false, "vault:v1:AA-_": false, "vault:v1:AAAA:": false,
		"Vault:v1:AAAA": false, "vault:v1AAAA": false, "vault:1:AAAA": false, "": false, " vault:v1:AAAA": false,
	} {
		if _, got := parseValue(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

func FuzzValue(f *testing.F) {
	f.Add("vault:v1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGw==")
	f.Add("vault:v10:AAF=")
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := parseValue(text)
		if !ok {
			return
		}
		if again := fmt.Sprintf("vault:v%d:%s", v.version, base64.StdEncoding.EncodeToString(v.raw)); again != text || v.version < 1 {
			t.Fatalf("%q reads the same as %q", text, again)
		}
	})
}
