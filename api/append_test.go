package api_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/keygate/keygate/api"
)

func TestAppendJSONIsWhatPackageJSONReadsAndWrites(t *testing.T) {
	b := []byte{0, 0xff, 0xfe, 'a'}
	for _, r := range []interface {
		MaxJSON() int
		AppendJSON([]byte) []byte
		Wipe()
	}{
		&api.GenerateKeyResponse{Plaintext: b, Ciphertext: []byte{}},
		&api.EncryptResponse{Ciphertext: b},
		&api.DecryptResponse{Plaintext: b},
		&api.HMACResponse{HMAC: b},
	} {
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.AppendJSON([]byte("x")); string(got) != "x"+string(want) {
			t.Errorf("%T: got %s, want %s", r, got[1:], want)
		}
		if len(want) > r.MaxJSON() {
			t.Errorf("%T: %d bytes, and room for %d", r, len(want), r.MaxJSON())
		}
	}
	if got := (&api.DecryptResponse{}).AppendJSON(nil); string(got) != `{"plaintext":""}` {
		t.Errorf("no plaintext: %s", got)
	}
}

func TestWipeOverwritesSecrets(t *testing.T) {
	secret := func() []byte { return []byte("secret") }
	generate, decrypt, hmac := &api.GenerateKeyResponse{Plaintext: secret()}, &api.DecryptResponse{Plaintext: secret()}, &api.HMACResponse{HMAC: secret()}
	generate.Wipe()
	decrypt.Wipe()
	hmac.Wipe()
	for _, b := range [][]byte{generate.Plaintext, decrypt.Plaintext, hmac.HMAC} {
		if !bytes.Equal(b, make([]byte, 6)) {
			t.Errorf("%q stays", b)
		}
	}
}
