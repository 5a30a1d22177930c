package client_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/kms"
)

// recorded answers with body and remembers the last request.
func recorded(path, got *string, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		*path, *got = r.URL.Path, string(b)
		answer(200, body)(w, r)
	}
}

func TestBatchGenerate(t *testing.T) {
	var path, body string
	c := newClient(t, nil, newServer(t, recorded(&path, &body, `[{"plaintext":"YQ==","ciphertext":"Yg=="},{"plaintext":"Yw==","ciphertext":"ZA=="}]`)))
	keys, err := c.GenerateKeys(t.Context(), "k", 2, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if string(keys[0].Plaintext)+string(keys[0].Ciphertext)+string(keys[1].Plaintext)+string(keys[1].Ciphertext) != "abcd" {
		t.Errorf("keys are %q", keys)
	}
	if path != "/v1/key/batch/generate/k" || body != `{"count":2,"context":"e30="}` {
		t.Errorf("sent to %s: %s", path, body)
	}
	if _, err := c.GenerateKeysFor(t.Context(), "k", [][]byte{[]byte("a"), nil}); err != nil || body != `{"contexts":["YQ==",null]}` {
		t.Errorf("error %v, sent %s", err, body)
	}
	// One key too few or too many is not taken for another's.
	for _, n := range []int{0, 1, 3} {
		if keys, err := c.GenerateKeys(t.Context(), "k", n, nil); err == nil || keys != nil {
			t.Errorf("2 answers to %d requests are taken", n)
		}
	}
}

func TestBatchDecrypt(t *testing.T) {
	var path, body string
	c := newClient(t, nil, newServer(t, recorded(&path, &body,
		`[{"plaintext":"YQ=="},{"error":"decryption failed: ciphertext is not authentic"},{"error":"root of trust or key store is unavailable"},{"error":"news"}]`)))
	batch := []client.Ciphertext{{Ciphertext: []byte("1"), Context: []byte("a")}, {Ciphertext: []byte("2")}, {Ciphertext: []byte("3")}, {Ciphertext: []byte("4")}}
	opened, err := c.DecryptBatch(t.Context(), "k", batch)
	if err != nil {
		t.Fatal(err)
	}
	if path != "/v1/key/batch/decrypt/k" || body != `[{"ciphertext":"MQ==","context":"YQ=="},{"ciphertext":"Mg=="},{"ciphertext":"Mw=="},{"ciphertext":"NA=="}]` {
		t.Errorf("sent to %s: %s", path, body)
	}
	if string(opened[0].Plaintext) != "a" || opened[0].Err != nil {
		t.Errorf("item 0 is %+v", opened[0])
	}
	if !errors.Is(opened[1].Err, kms.ErrCiphertext) || !errors.Is(opened[2].Err, kms.ErrUnavailable) || opened[3].Err == nil {
		t.Errorf("errors are %v, %v, %v", opened[1].Err, opened[2].Err, opened[3].Err)
	}
	if opened, err := c.DecryptBatch(t.Context(), "k", batch[:1]); err == nil || opened != nil {
		t.Error("4 answers to one ciphertext are taken")
	}
}

func TestModesAndKeysWithoutPlaintext(t *testing.T) {
	var path, body string
	c := newClient(t, nil, newServer(t, recorded(&path, &body, `{"ciphertext":"Yg=="}`)))
	if ciphertext, err := c.GenerateKeyWithoutPlaintext(t.Context(), "k", nil); err != nil || string(ciphertext) != "b" || body != `{"plaintext":false}` {
		t.Errorf("%q, error %v, sent %s", ciphertext, err, body)
	}
	if err := c.SetKeyMode(t.Context(), "k", "direct"); err != nil || path+body != `/v1/key/mode/k{"mode":"direct"}` {
		t.Errorf("error %v, sent to %s: %s", err, path, body)
	}
	if err := c.CreateKeyWithMode(t.Context(), "k", "branch"); err != nil || path+body != `/v1/key/create/k{"mode":"branch"}` {
		t.Errorf("error %v, sent to %s: %s", err, path, body)
	}
}

func TestAU06_DataKeysAreNotLogged(t *testing.T) {
	const canary = "canary 5f3e9a7c41"
	for _, v := range []any{client.DataKey{Plaintext: []byte(canary)}, client.Opened{Plaintext: []byte(canary)}} {
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "v", v)
		slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", v)
		fmt.Fprintf(&log, "%v %+v %#v %s %x", v, v, v, v, v)
		for _, form := range []string{canary, base64.StdEncoding.EncodeToString([]byte(canary)), hex.EncodeToString([]byte(canary)), fmt.Sprint([]byte(canary))[1:10]} {
			if strings.Contains(log.String(), form) {
				t.Errorf("%T shows it: %s", v, log.String())
			}
		}
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", client.Opened{Err: kms.ErrCiphertext})
	if !strings.Contains(log.String(), kms.ErrCiphertext.Error()) {
		t.Errorf("an error is not logged: %s", log.String())
	}
}
