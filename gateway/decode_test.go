package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/policy"
)

// FuzzDecode compares decode with what KES does of the same bytes: one call of
// json.Decoder. Its seeds are in testdata/fuzz.
func FuzzDecode(f *testing.F) {
	seeds, err := os.ReadDir("testdata/fuzz/FuzzDecode")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds: ", err)
	}
	f.Fuzz(func(t *testing.T, body []byte, chunked bool) {
		length := int64(len(body))
		if chunked {
			length = -1
		}
		r := &request{
			route: &route{action: policy.Decrypt, maxBody: api.MaxBody},
			http:  &http.Request{ContentLength: length, Body: io.NopCloser(bytes.NewReader(body))},
		}
		var got, want api.DecryptRequest
		err := r.decode(&got)
		wantErr := json.NewDecoder(bytes.NewReader(body)).Decode(&want)
		if err != nil && err != error(api.ErrBody) {
			t.Fatalf("error is %v", err)
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: error is %v, not %v", body, err, wantErr)
		}
		if err == nil && (!bytes.Equal(got.Ciphertext, want.Ciphertext) || !bytes.Equal(got.Context, want.Context)) {
			t.Fatalf("%q: decoded %+v, not %+v", body, got, want)
		}
		if cap(r.body) > 2*len(body)+1024 {
			t.Fatalf("%d bytes for a body of %d", cap(r.body), len(body))
		}
	})
}

func TestReadAllKeepsToItsLimitAndWipes(t *testing.T) {
	const limit = 1000
	for _, n := range []int{0, 1, 511, 512, 513, 999, 1000, 1001, 5000} {
		content := bytes.Repeat([]byte("x"), n)
		for _, hint := range []int64{-1, 0, int64(n), limit} {
			got, err := readAll(bytes.NewReader(content), hint, limit, func(int64) bool { return true })
			if (err == nil) != (n <= limit) || err == nil && !bytes.Equal(got, content) || err != nil && got != nil {
				t.Errorf("%d bytes, hint %d: %d bytes, %v", n, hint, len(got), err)
			}
		}
	}
	small := append(make([]byte, 0, 4), "abcd"...)
	if next := grow(small); string(next) != "abcd" || !bytes.Equal(small, make([]byte, 4)) {
		t.Errorf("grown to %q, %q stays behind", next, small)
	}
}
