package api_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/keygate/keygate/api"
)

func TestSimpleBodiesAreReadAsPackageJSONDoes(t *testing.T) {
	for body, simple := range map[string]bool{
		`{}`:           true,
		` { } ` + "\n": true,
		`{"ciphertext":"AAECAw==","context":"Yw=="}`:                    true,
		"\t{ \"context\" : \"Yw==\" ,\r\n \"ciphertext\" : \"AA==\" } ": true,
		`{"ciphertext":""}`:                              true,
		`{"ciphertext":"AAECAw==","context":null}`:       false,
		`{"Ciphertext":"AAECAw=="}`:                      false,
		`{"ciphertext":"AA==","ciphertext":"AQ=="}`:      false,
		`{"ciphertext":"AA==","other":"AQ=="}`:           false,
		`{"ciphertext":"AA\\u003d="}`:                    false,
		`{"ciphertext":"AA"}`:                            false,
		"{\"ciphertext\":\"AA\n==\"}":                    false,
		`{"ciphertext":"AA=="}{}`:                        false,
		`{"ciphertext":"AA==",}`:                         false,
		`{"ciphertext":"AA=="`:                           false,
		`{"ciphertext" "AA=="}`:                          false,
		`{"ciphertext":[1]}`:                             false,
		`{"ciphertext":"AA=="}` + strings.Repeat(" ", 9): true,
		`"ciphertext"`:                                   false,
		`{"`:                                             false,
		`{`:                                              false,
		``:                                               false,
	} {
		var got, want api.DecryptRequest
		if ok := got.DecodeSimple([]byte(body)); ok != simple {
			t.Errorf("%s: simple is %v", body, ok)
			continue
		}
		if !simple {
			if got.Ciphertext != nil || got.Context != nil {
				t.Errorf("%s: changed to %+v", body, got)
			}
			continue
		}
		if err := json.Unmarshal([]byte(body), &want); err != nil || !bytes.Equal(got.Ciphertext, want.Ciphertext) || !bytes.Equal(got.Context, want.Context) {
			t.Errorf("%s: read as %+v, by package json as %+v, %v", body, got, want, err)
		}
	}
}

func FuzzDecodeSimple(f *testing.F) {
	for _, seed := range []string{`{"context":"Yw==","ciphertext":"AA==","plaintext":"AA=="}`, `{ "context" : "" }`, `{"context":"Y\u0077=="}`, "{\"context\":\"\xff\x00\"}", `{"context":"Yx=="}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		compare(t, body, new(api.GenerateKeyRequest), new(api.GenerateKeyRequest), func(r *api.GenerateKeyRequest) [][]byte { return [][]byte{r.Context} })
		compare(t, body, new(api.DecryptRequest), new(api.DecryptRequest), func(r *api.DecryptRequest) [][]byte { return [][]byte{r.Ciphertext, r.Context} })
		compare(t, body, new(api.EncryptRequest), new(api.EncryptRequest), func(r *api.EncryptRequest) [][]byte { return [][]byte{r.Plaintext, r.Context} })
		if !bytes.Equal(body, before) {
			t.Fatalf("%q was changed to %q", before, body)
		}
	})
}

// compare fails if what got reads of body is other than what package json does.
func compare[T interface{ DecodeSimple([]byte) bool }](t *testing.T, body []byte, got, want T, fields func(T) [][]byte) {
	if !got.DecodeSimple(body) {
		return
	}
	if err := json.Unmarshal(body, want); err != nil {
		t.Fatalf("%q is taken; package json: %v", body, err)
	}
	for i, f := range fields(got) {
		if !bytes.Equal(f, fields(want)[i]) {
			t.Fatalf("%q: %q, and by package json %q", body, f, fields(want)[i])
		}
	}
}
