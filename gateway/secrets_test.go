package gateway_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"crypto/x509"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/envelope"
)

// A canary is a secret that must turn up nowhere.
type canary struct {
	name  string
	bytes []byte
}

// forms returns how a secret could be written.
func (c canary) forms() map[string][]byte {
	return map[string][]byte{
		"raw": c.bytes, "hex": []byte(hex.EncodeToString(c.bytes)), "HEX": []byte(strings.ToUpper(hex.EncodeToString(c.bytes))),
		"base64": []byte(strings.TrimRight(base64.StdEncoding.EncodeToString(c.bytes), "=")), "%v": []byte(strings.Trim(fmt.Sprint(c.bytes), "[]")),
	}
}

// absent checks that no canary is in any of the places.
func absent(t *testing.T, canaries []canary, places map[string][]byte) {
	t.Helper()
	for _, c := range canaries {
		for form, b := range c.forms() {
			for place, content := range places {
				if len(b) == 0 || bytes.Contains(content, b) {
					t.Errorf("the %s is in %s, as %s", c.name, place, form)
				}
			}
		}
	}
}

// places returns all that the gateway writes for others than the client that
// asked: audit log, error log, metrics, streams.
func (w *world) places() map[string][]byte {
	w.t.Helper()
	admin := w.client(w.admin)
	file, err := os.ReadFile(w.auditFile)
	ok(w.t, err)
	return map[string][]byte{
		"the audit log": file, "the error log": []byte(w.log.String()),
		"/metrics": []byte(admin.do("GET", "/metrics", "").body), "/v1/metrics": []byte(admin.do("GET", "/v1/metrics", "").body),
		"/v1/status": []byte(admin.do("GET", "/v1/status", "").body),
	}
}

func TestAU05_KS22_SecretsTurnUpNowhere(t *testing.T) {
	w := newWorld(t, func(w *world) { w.mode = envelope.Direct })
	c := w.client(w.admin)
	stream := c.follow("/v1/log/audit")
	secret := func(s string) []byte { return []byte(s + " canary 5f3e9a7c41") }
	imported := secret("imported key::") // 32 bytes
	plaintext, context, message := secret("plaintext"), secret("context"), secret("message")
	canaries := []canary{{"imported key", imported}, {"plaintext", plaintext}, {"context", context}, {"message", message}, {"PIN", []byte(w.root.pin)}}
	if len(imported) != 32 {
		t.Fatalf("imported key of %d bytes", len(imported))
	}

	c.get("POST", "/v1/key/import/a", importBody(imported, "AES256"), nil)
	c.get("POST", "/v1/key/create/b", "", nil)
	for _, key := range []string{"a", "b"} {
		var dek api.GenerateKeyResponse
		c.get("POST", "/v1/key/generate/"+key, fmt.Sprintf(`{"context":"%s"}`, b64(string(context))), &dek)
		canaries = append(canaries, canary{"DEK of " + key, dek.Plaintext})
		c.get("POST", "/v1/key/decrypt/"+key, ciphertextBody(dek.Ciphertext, string(context)), nil)
		c.do("POST", "/v1/key/decrypt/"+key, ciphertextBody(dek.Ciphertext, string(plaintext)))
		var out api.EncryptResponse
		c.get("POST", "/v1/key/encrypt/"+key, fmt.Sprintf(`{"plaintext":"%s","context":"%s"}`, b64(string(plaintext)), b64(string(context))), &out)
		c.get("POST", "/v1/key/decrypt/"+key, ciphertextBody(out.Ciphertext, string(context)), nil)
		large := bytes.Repeat(plaintext, 1000)
		c.get("POST", "/v1/key/encrypt/"+key, fmt.Sprintf(`{"plaintext":"%s"}`, b64(string(large))), &out)
		var mac api.HMACResponse
		c.get("PUT", "/v1/key/hmac/"+key, fmt.Sprintf(`{"message":"%s"}`, b64(string(message))), &mac)
		canaries = append(canaries, canary{"HMAC of " + key, mac.HMAC})
		// Again where everything fails.
		w.root.down.Store(true)
		for _, op := range []string{"generate", "encrypt", "decrypt"} {
			body := fmt.Sprintf(`{"plaintext":"%s","ciphertext":"%s","context":"%s"}`, b64(string(plaintext)), base64.StdEncoding.EncodeToString(out.Ciphertext), b64(string(context)))
			if op == "generate" { // where plaintext says whether to answer it
				body = fmt.Sprintf(`{"context":"%s"}`, b64(string(context)))
			}
			c.fails("POST", "/v1/key/"+op+"/"+key, body, 503, "root of trust or key store is unavailable")
		}
		w.root.down.Store(false)
	}
	c.get("GET", "/v1/key/describe/a", "", nil)
	c.get("DELETE", "/v1/key/delete/a", "", nil)

	places := w.places()
	var streamed strings.Builder
	for !strings.Contains(streamed.String(), "/v1/key/delete/a") {
		streamed.WriteString(await(t, stream, "") + "\n")
	}
	places["the audit stream"] = []byte(streamed.String())
	if !strings.Contains(w.log.String(), "request failed") {
		t.Error("the failures are not in the error log")
	}
	addFiles(t, places, w.store)
	addFiles(t, places, w.root.dir)
	absent(t, canaries, places)
}

// addFiles adds the files under a directory to places.
func addFiles(t *testing.T, places map[string][]byte, dir string) {
	t.Helper()
	n := 0
	ok(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		places[path] = b
		n++
		return err
	}))
	if n == 0 {
		t.Errorf("there is no file in %s", dir)
	}
}

func TestBI15_ErrorsRepeatNoField(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	// As long as a key of 32 bytes is in base64: the name of an algorithm that is
	// not supported is repeated, as in KES, if it is short enough to be one.
	marker := []byte("Marker-9d1c77aa03bd-4e5f60718293a4b5c6d7e8f9")
	canaries := []canary{{"marker", marker}}
	places := make(map[string][]byte)
	text, encoded := string(marker), b64(string(marker))
	for _, op := range []string{"create", "import", "generate", "encrypt", "decrypt", "hmac"} {
		for _, field := range []string{"key", "cipher", "context", "plaintext", "ciphertext", "message", "version", "unknown"} {
			for _, body := range []string{
				fmt.Sprintf(`{"%s":"%s"}`, field, text), fmt.Sprintf(`{"%s":"%s"`, field, encoded), fmt.Sprintf(`{"%s":{"%s":1}}`, field, text),
				fmt.Sprintf(`{"%s":"%s","cipher":"AES256"}`, field, encoded), fmt.Sprintf(`{"%s":["%s"]} %s`, field, text, text), fmt.Sprintf(`%s{"%s":1}`, text, field),
			} {
				a := c.do("POST", "/v1/key/"+op+"/app-2", body)
				b := c.do("POST", "/v1/key/"+op+"/app-1", body)
				places[fmt.Sprintf("the answer to %s %s", op, body)] = []byte(a.body + fmt.Sprint(a.Header))
				if b.StatusCode != 200 {
					places[fmt.Sprintf("the answer to %s %s ", op, body)] = []byte(b.body + fmt.Sprint(b.Header))
				}
			}
		}
	}
	req, err := http.NewRequest("POST", c.base+"/v1/key/create/app-1?secret="+text, strings.NewReader(text))
	ok(t, err)
	req.Header.Set("Authorization", text)
	req.Header.Set("X-Request-Id", text)
	req.Header.Set("Cookie", text)
	resp, err := c.http.Do(req)
	ok(t, err)
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	places["the answer to marked headers"] = append(b, fmt.Sprint(resp.Header)...)
	for place, content := range w.places() {
		places[place] = content
	}
	absent(t, canaries, places)
}

func TestAU07_NothingCanBeInjectedIntoLogs(t *testing.T) {
	w := newWorld(t)
	const evil = "a\nb\r\n{\"outcome\":\"ok\"}\x1b[31m\"'\\\u2028\u202e"
	attacker := newCertificate(t, func(c *x509.Certificate) { c.Subject.CommonName, c.DNSNames = evil, []string{"evil.example"} })
	for _, c := range []*client{w.client(attacker), w.client(w.app), w.clientOf(&w.app, false)} {
		for _, path := range []string{"/v1/key/create/", "/v1/key/list/", "/v1/policy/read/", "/nothing/"} {
			req, err := http.NewRequest("POST", c.base+path+"a%0Ab%0D%0A%7B%22outcome%22%3A%22ok%22%7D%1B%5B31m%22%FF%00%E2%80%A8", nil)
			ok(t, err)
			req.Header.Set("User-Agent", "a\"\t{}\\")
			req.Header.Set("X-Forwarded-For", "6.6.6.6")
			resp, err := c.http.Do(req)
			ok(t, err)
			resp.Body.Close()
		}
	}
	file, err := os.ReadFile(w.auditFile)
	ok(t, err)
	lines := strings.Split(strings.TrimSuffix(string(file), "\n"), "\n")
	if len(lines) != 12 {
		t.Errorf("%d lines for 12 requests", len(lines))
	}
	for _, line := range append(lines, strings.Split(strings.TrimSpace(w.log.String()), "\n")...) {
		if line == "" {
			continue // the error log may be empty
		}
		if !json.Valid([]byte(line)) || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("line %q", line)
		}
		if strings.Contains(line, "6.6.6.6") {
			t.Errorf("a header is taken for the client's address: %s", line)
		}
	}
	for _, e := range w.entries() {
		if e["outcome"] == "ok" {
			t.Errorf("entry %v", e)
		}
	}
}
