package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/kms"
)

// parsers are those of our own bodies, all of them strict.
var parsers = map[string]func([]byte) error{
	"generate": func(b []byte) error { _, err := api.ParseBatchGenerate(b); return err },
	"decrypt":  func(b []byte) error { _, err := api.ParseBatchDecrypt(b); return err },
	"mode":     func(b []byte) error { _, err := api.ParseSetMode(b); return err },
}

func TestBatchGenerateBodies(t *testing.T) {
	for body, want := range map[string]string{
		`{"count":3}`:                             `3 [""] plaintext`,
		`{"count":3,"context":"YQ=="}`:            `3 ["a"] plaintext`,
		` { "context" : null , "count" : 0 } `:    `0 [""] plaintext`,
		`{"contexts":[]}`:                         `0 [] plaintext`,
		`{"contexts":["YQ==","","YWI=",null]}`:    `4 ["a" "" "ab" ""] plaintext`,
		`{"plaintext":false,"contexts":["YWJj"]}`: `1 ["abc"]`,
		`{"plaintext":true,"count":10000}`:        `10000 [""] plaintext`,
		`{"contexts":["\/\/\u002B\/"]}`:           "1 [\"\\xff\\xff\\xbf\"] plaintext",
	} {
		in, err := api.ParseBatchGenerate([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		got := fmt.Sprintf("%d %q", in.Count, in.Contexts)
		if in.Plaintext == nil || *in.Plaintext {
			got += " plaintext"
		}
		if got != want {
			t.Errorf("%s: read as %s, not %s", body, got, want)
		}
	}
}

func TestLongContextsAreDecodedWhereTheyStand(t *testing.T) {
	for _, n := range []int{1, 767, 768, 769, 1535, 1536, 100_000} {
		context := bytes.Repeat([]byte("0123456789abcdef\xff"), n/17+1)[:n]
		body := fmt.Appendf(nil, `{"contexts":["%s","YQ=="]}`, base64.StdEncoding.EncodeToString(context))
		in, err := api.ParseBatchGenerate(body)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(in.Contexts[0], context) || string(in.Contexts[1]) != "a" {
			t.Errorf("%d bytes: decoded to something else", n)
		}
	}
}

func TestBI01_BI02_StrictBodies(t *testing.T) {
	for parser, bodies := range map[string][]string{
		"generate": {
			`{}`, `{"context":"YQ=="}`, `{"plaintext":true}`, `{"count":1,"contexts":[]}`, `{"contexts":[],"context":""}`,
			`{"count":1,"count":1}`, `{"contexts":[],"contexts":[]}`, `{"count":1,"plaintext":false,"plaintext":true}`,
			`{"Count":1}`, `{"count":1,"Context":"YQ=="}`, `{"CONTEXTS":[]}`, `{"count":1,"extra":1}`, `{"count":1,"":1}`, `{"count":1,"\u0043ontext":""}`,
			`{"count":-1}`, `{"count":1.0}`, `{"count":1e2}`, `{"count":01}`, `{"count":"1"}`, `{"count":null}`, `{"count":true}`, `{"count":1234567890}`, `{"count":+1}`,
			`{"contexts":"YQ=="}`, `{"contexts":[1]}`, `{"contexts":["YQ=="}`, `{"contexts":["YQ==",]}`, `{"contexts":[,]}`, `{"contexts":null}`, `{"contexts":[["YQ=="]]}`,
			`{"count":1,"plaintext":"false"}`, `{"count":1,"plaintext":0}`, `{"count":1,"plaintext":null}`, `{"count":1,"plaintext":falsey}`,
			`{"count":1,"context":"YQ"}`, `{"count":1,"context":"YQ=="YQ=="}`, `{"count":1,"context":"YQ==YQ=="}`, `{"count":1,"context":"YQ\n=="}`, "{\"count\":1,\"context\":\"YQ=\n\"}", "{\"count\":1,\"context\":\"YWJj\r\n\r\n\"}",
			`{"count":1,"context":"-_-_"}`, `{"count":1,"context":"\uZZZZ"}`, `{"count":1,"context":"YQ==`, `{"count":1,"context":"YQ==\`, `{"count":1,"context":nul}`,
			`{"count":1,"context":"` + strings.Repeat("A", 1022) + `==` + strings.Repeat("A", 1024) + `"}`,
			`{"count":1}{}`, `{"count":1} x`, `{"count":1},`, `{"count":1]`, `{"count" 1}`, `{"count":1 "plaintext":true}`, `{count:1}`, `{"count":1,}`,
		},
		"decrypt": {
			`{}`, `null`, `[null]`, `[1]`, `[{}]`, `[{"context":"YQ=="}]`, `[{"ciphertext":null}]`, `[{"ciphertext":"YQ==","ciphertext":"YQ=="}]`, `[{"Ciphertext":"YQ=="}]`,
			`[{"ciphertext":"YQ==","version":"v1"}]`, `[{"ciphertext":"YQ=="}`, `[{"ciphertext":"YQ=="},]`, `[{"ciphertext":"YQ=="}][]`, `[[]]`, `[{"ciphertext":["YQ=="]}]`,
		},
		"mode": {`{}`, `[]`, `"direct"`, `{"mode":1}`, `{"mode":null}`, `{"Mode":"direct"}`, `{"mode":"direct","mode":"branch"}`, `{"mode":"direct","x":1}`, `{"mode":"direct"} {}`},
	} {
		general := []string{"", " ", "x", "{", "}", "[", "]", `"`, "\ufeff{\"count\":1}", "\x00", "\xff\xfe{\x00", strings.Repeat("[", 100_000), strings.Repeat(`{"count":`, 100_000), strings.Repeat(`"`, 10_001)}
		for _, body := range append(bodies, general...) {
			if err := parsers[parser]([]byte(body)); !errors.Is(err, api.ErrBody) {
				t.Errorf("%s: %.80q: %v, not ErrBody", parser, body, err)
			}
		}
	}
}

func TestBatchesHaveALimit(t *testing.T) {
	list := func(n int, item string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
	}
	const sealed = `{"ciphertext":""}`
	for body, want := range map[string]error{
		`{"count":10000}`: nil, `{"count":10001}`: api.ErrBatch, `{"count":999999999}`: api.ErrBatch,
		`{"contexts":` + list(10_000, `""`) + `}`: nil, `{"contexts":` + list(10_001, `""`) + `}`: api.ErrBatch, `{"contexts":` + list(50_000, `""`) + `}`: api.ErrBatch,
	} {
		if err := parsers["generate"]([]byte(body)); !errors.Is(err, want) {
			t.Errorf("%.40s: %v, not %v", body, err, want)
		}
	}
	for n, want := range map[int]error{0: nil, 1: nil, kms.MaxBatch: nil, kms.MaxBatch + 1: api.ErrBatch} {
		if err := parsers["decrypt"]([]byte(list(n, sealed))); !errors.Is(err, want) {
			t.Errorf("%d ciphertexts: %v, not %v", n, err, want)
		}
	}
}

func TestItemsOfBatchesAreWhatPackageJSONReads(t *testing.T) {
	for _, o := range []kms.Opened{{Plaintext: []byte("secret")}, {Plaintext: []byte{}}, {Err: kms.ErrCiphertext}, {Err: fmt.Errorf("x: %w", kms.ErrUnavailable)}, {Err: errors.New("?")}} {
		var got api.BatchDecryptItem
		if err := json.Unmarshal(api.AppendOpened(nil, o), &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Plaintext, o.Plaintext) || (got.Error == "") != (o.Err == nil) {
			t.Errorf("%+v became %+v", o, got)
		}
		if o.Err == nil {
			continue
		}
		if back, want := api.ItemError(got.Error), api.ErrorOf(o.Err); *back != *want {
			t.Errorf("%v is read as %d %q", o.Err, back.Status, back.Message)
		}
	}
	if got := string(api.AppendDataKey(nil, nil, []byte("abc"))); got != `{"ciphertext":"YWJj"}` {
		t.Errorf("a data key without plaintext is %s", got)
	}
}

// What the strict parser reads package json reads alike, and never the other way
// round: it refuses more.
func FuzzBatchDecryptBody(f *testing.F) {
	for _, s := range []string{`[]`, `[{"ciphertext":"YQ=="}]`, `[{"context":"YWI=","ciphertext":"YQ=="},{"ciphertext":""}]`, ` [ { "ciphertext" : "\/\/8=" } ] `, `[{"ciphertext":"YQ==","context":null}]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var want []api.DecryptRequest
		jsonErr := json.Unmarshal(body, &want)
		got, err := api.ParseBatchDecrypt(bytes.Clone(body))
		if err != nil {
			return
		}
		if jsonErr != nil || len(got) != len(want) {
			t.Fatalf("read %d items of %q, package json %d: %v", len(got), body, len(want), jsonErr)
		}
		for i := range got {
			if !bytes.Equal(got[i].Ciphertext, want[i].Ciphertext) || !bytes.Equal(got[i].AdditionalData, want[i].Context) {
				t.Fatalf("item %d of %q is %+v", i, body, got[i])
			}
		}
	})
}
