package gateway_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/gateway"
)

func TestBI01_BI02_KESRoutesAreLenientAndOnlyThat(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	names, _ := os.ReadDir(w.store)
	calls := w.root.calls.Load()
	for _, body := range badBodies {
		for _, op := range []string{"generate", "encrypt", "decrypt"} {
			c.fails("POST", "/v1/key/"+op+"/app-1", body, 400, "invalid request body")
		}
		c.fails("POST", "/v1/key/import/app-2", strings.ReplaceAll(body, `"context"`, `"key"`), 400, "invalid import key request body")
		if e := w.last(); e["outcome"] != "invalid" || e["status"] != 400.0 {
			t.Fatalf("audit entry is %v", e)
		}
	}
	if after, _ := os.ReadDir(w.store); len(after) != len(names) {
		t.Error("something was stored")
	}
	if w.root.calls.Load() != calls {
		t.Error("the root was called")
	}
	if s := w.log.String(); s != "" {
		t.Errorf("clients can fill the error log: %s", s)
	}
}

func TestBI03_DeepAndLargeDocumentsAreCheap(t *testing.T) {
	w := newWorld(t)
	c := w.clientOf(&w.app, false)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	keys := new(strings.Builder)
	for i := range 60_000 {
		fmt.Fprintf(keys, `"k%d":1,`, i)
	}
	for name, body := range map[string]string{
		"nested arrays":  strings.Repeat("[", 999_999),
		"nested objects": strings.Repeat(`{"a":`, 199_999),
		"nested value":   `{"context":` + strings.Repeat("[", 900_000),
		"giant number":   `{"context":1` + strings.Repeat("0", 900_000) + `}`,
		"many keys":      `{` + keys.String() + `"context":1}`,
		"large string":   `{"context":"` + strings.Repeat("\\u0041", 160_000) + `!"}`,
	} {
		t.Run("BI-03 "+name, func(t *testing.T) {
			c := c.in(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			c.fails("POST", "/v1/key/generate/app-1", body, 400, "invalid request body")
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			// Client and server share the process: the body is there twice, and its
			// transport's buffers; nothing that grows with what the JSON says.
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
				t.Errorf("%d bytes were allocated", grown)
			}
			if took > 2*time.Second { // 10 ms without -race on an idle machine
				t.Errorf("it took %v", took)
			}
		})
	}
	// A stranger's body is not even read.
	stranger := newCertificate(t, nil)
	conn := w.dial(stranger)
	fmt.Fprintf(conn, "POST /v1/key/generate/app-1 HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	ok(t, err)
	if resp.StatusCode != 403 {
		t.Errorf("answered %s", resp.Status)
	}
}

func TestBI04_BodiesThatLieOrDoNotEnd(t *testing.T) {
	const timeout = 300 * time.Millisecond
	w := newWorld(t, func(w *world) {
		w.state.Routes = map[string]gateway.RouteConfig{"/v1/key/generate/": {Timeout: timeout}}
	})
	c := w.clientOf(&w.app, false)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	const head = "POST /v1/key/generate/app-1 HTTP/1.1\r\nHost: x\r\n"
	for name, test := range map[string]struct {
		request string
		status  int
		atOnce  bool // before the deadline
	}{
		"Content-Length over the limit": {head + "Content-Length: 1000001\r\n\r\n{}", 400, true},
		"Content-Length too long":       {head + "Content-Length: 100\r\n\r\n{}", 400, false},
		"chunks without an end":         {head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", 400, false},
		"a chunk without an end":        {head + "Transfer-Encoding: chunked\r\n\r\nfffff\r\n{}", 400, false},
		"chunks over the limit":         {head + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("10000\r\n"+strings.Repeat(" ", 0x10000)+"\r\n", 16), 400, true},
		"no body after 100-continue":    {head + "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n", 400, false},
		"other expectation":             {head + "Expect: coffee\r\nContent-Length: 2\r\n\r\n{}", 417, true},
		"gzip":                          {head + "Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00", 400, true},
	} {
		t.Run("BI-04 "+name, func(t *testing.T) {
			conn := w.dial(w.app)
			start := time.Now()
			go io.WriteString(conn, test.request) // the server may not read it all
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			ok(t, err)
			if resp.StatusCode == 100 {
				resp, err = http.ReadResponse(r, nil)
				ok(t, err)
			}
			took := time.Since(start)
			if resp.StatusCode != test.status || test.atOnce && took > 3*timeout || took > 5*time.Second {
				t.Errorf("answered %s after %v", resp.Status, took)
			}
			if !test.atOnce {
				io.Copy(io.Discard, resp.Body)
				if _, err := r.ReadByte(); err == nil {
					t.Error("the connection stays open")
				}
			}
		})
	}
	c.get("POST", "/v1/key/generate/app-1", "{}", nil)
}

func TestBI05_BI06_NamesReachNoStore(t *testing.T) {
	w := newWorld(t, counted)
	admin, stranger := w.client(w.admin), w.client(newCertificate(t, nil))
	before, err := os.ReadDir(w.store)
	ok(t, err)
	long := strings.Repeat("a", 30_000)
	stored, calls := w.storeCalls.Load(), w.root.calls.Load()
	for _, bad := range append(badNames, struct{ sent, read string }{long, long[:200] + "..."}) {
		message := "key name '" + bad.read + "' is empty, too long or contains invalid characters"
		admin.fails("POST", "/v1/key/create/"+bad.sent, "", 400, message)
		if e := w.last(); e["key"] != nil || !strings.HasPrefix(fmt.Sprint(e["path"]), "/v1/key/create/") || len(fmt.Sprint(e["path"])) > 210 {
			t.Errorf("audit entry is %v", e)
		}
		stranger.fails("POST", "/v1/key/create/"+bad.sent, "", 403, notAuthorized)
	}
	after, err := os.ReadDir(w.store)
	ok(t, err)
	if len(before) != len(after) {
		t.Error("something was stored")
	}
	if s, r := w.storeCalls.Load()-stored, w.root.calls.Load()-calls; s != 0 || r != 0 {
		t.Errorf("the store was asked %d times, the root %d times", s, r)
	}
	// Policy and handler see the same string: what a rule denies cannot be
	// spelled otherwise.
	w.reload(setRules(w, []string{"/v1/key/*"}, []string{"/v1/key/create/secret"}))
	app := w.client(w.app)
	app.fails("POST", "/v1/key/create/secret", "", 403, notAuthorized)
	app.fails("POST", "/v1/key/create/%73ecret", "", 403, notAuthorized)
	for _, path := range []string{"./secret", "x/../secret", "/secret", "secret/", "secret%2f", "secret;a", "secret%00", "%2e/secret"} {
		if got := app.do("POST", "/v1/key/create/"+path, ""); got.StatusCode != 400 {
			t.Errorf("%s: %d %s", path, got.StatusCode, got.body)
		}
	}
	for _, path := range []string{"/v1/key//create/secret", "/v1/./key/create/secret", "/v1/key/x/../create/secret", "//v1/key/create/secret", "/v1/key/CREATE/secret", "/v1/key%2fcreate%2f"} {
		if got := app.do("POST", path, ""); got.StatusCode != 501 && got.StatusCode != 400 {
			t.Errorf("%s: %d %s", path, got.StatusCode, got.body)
		}
	}
	admin.fails("GET", "/v1/key/describe/secret", "", 404, "key does not exist")
}

func TestBI12_ContextsOfEverySize(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	for _, n := range []int{0, 1, 1000, 65_536} {
		context := bytesOf(n)
		var dek api.GenerateKeyResponse
		c.get("POST", "/v1/key/generate/app-1", contextBody(context), &dek)
		c.get("POST", "/v1/key/decrypt/app-1", ciphertextBody(dek.Ciphertext, string(context)), nil)
		if n > 0 {
			context[n-1] ^= 1
			c.fails("POST", "/v1/key/decrypt/app-1", ciphertextBody(dek.Ciphertext, string(context)), 400, "decryption failed: ciphertext is not authentic")
		}
	}
	exact := `{"context":""}` + strings.Repeat(" ", api.MaxBody-len(`{"context":""}`))
	c.get("POST", "/v1/key/generate/app-1", exact, nil)
	c.fails("POST", "/v1/key/generate/app-1", exact+" ", 400, "invalid request body")
}

// The largest context is the one whose ciphertext just fits in the body of a
// decrypt. One byte more is refused by all that make ciphertexts.
func TestBI12_TheLargestContextIsTheLastThatCanBeSentBack(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	for _, mode := range []string{"branch", "direct"} {
		name := "app-" + mode
		c.get("POST", "/v1/key/create/"+name, `{"mode":"`+mode+`"}`, nil)
		for _, test := range []struct{ op, body, more string }{
			{"generate", "{%s}", ""}, {"generate", `{"plaintext":false,%s}`, ""}, {"encrypt", `{"plaintext":"AAAA",%s}`, ""},
			{"batch/generate", `{"count":1,%s}`, ""}, {"batch/generate", `{"contexts":["",%s]}`, "list"},
		} {
			t.Run(fmt.Sprint("BI-12 ", mode, " ", test.op, test.body), func(t *testing.T) {
				c := c.in(t)
				send := func(context []byte) answer {
					field := fmt.Sprintf(`"context":"%s"`, base64.StdEncoding.EncodeToString(context))
					if test.more == "list" {
						field = strings.TrimPrefix(field, `"context":`)
					}
					return c.do("POST", "/v1/key/"+test.op+"/"+name, fmt.Sprintf(test.body, field))
				}
				size := len(lastCiphertext(t, send(nil)))
				largest := (api.MaxBody - len(ciphertextBody(make([]byte, size), ""))) / 4 * 3
				context := bytesOf(largest)
				sealed := lastCiphertext(t, send(context))
				body := ciphertextBody(sealed, string(context))
				if room := api.MaxBody - len(body); room > 3 {
					t.Errorf("there is room for %d bytes more", room)
				}
				c.get("POST", "/v1/key/decrypt/"+name, body, nil)
				isError(t, "one byte more", send(bytesOf(largest+1)), 400, "invalid request body")
			})
		}
	}
}

// lastCiphertext returns the ciphertext of an answer, or the last of its list.
func lastCiphertext(t *testing.T, a answer) []byte {
	t.Helper()
	list := a.body
	if !strings.HasPrefix(list, "[") {
		list = "[" + list + "]"
	}
	var keys []api.GenerateKeyResponse
	if err := json.Unmarshal([]byte(list), &keys); a.StatusCode != 200 || err != nil || len(keys) == 0 {
		t.Fatalf("answered %d %s: %v", a.StatusCode, shortened(a.body), err)
	}
	return keys[len(keys)-1].Ciphertext
}

func contextBody(context []byte) string {
	return fmt.Sprintf(`{"context":"%s"}`, base64.StdEncoding.EncodeToString(context))
}

// bytesOf returns n bytes of many values.
func bytesOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7)
	}
	return b
}

func TestBI16_SizesOfPlaintextsAndCiphertexts(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	var sealed []byte
	for _, n := range []int{0, 1, 15, 16, 17, 32, 4095, 4096, 4097, 65_535, 65_536, 65_537, 700_000} {
		plaintext := strings.Repeat("p", n)
		var out api.EncryptResponse
		c.get("POST", "/v1/key/encrypt/app-1", fmt.Sprintf(`{"plaintext":"%s"}`, b64(plaintext)), &out)
		var in api.DecryptResponse
		c.get("POST", "/v1/key/decrypt/app-1", ciphertextBody(out.Ciphertext, ""), &in)
		if string(in.Plaintext) != plaintext {
			t.Errorf("%d bytes: decrypts to something else", n)
		}
		if n == 65_536 {
			sealed = out.Ciphertext
		}
	}
	// A plaintext whose ciphertext could not be sent back is refused.
	largest := api.MaxBody - len(`{"plaintext":""}`)
	c.fails("POST", "/v1/key/encrypt/app-1", fmt.Sprintf(`{"plaintext":"%s"}`, strings.Repeat("AAAA", largest/4)), 400, "invalid request body")
	// What is no ciphertext of this key by its looks costs the root nothing.
	calls := w.root.calls.Load()
	refused := func(what string, b []byte) {
		t.Helper()
		a := c.do("POST", "/v1/key/decrypt/app-1", ciphertextBody(b, ""))
		isError(t, what, a, 400, "decryption failed: ciphertext is not authentic")
	}
	for n := range 26 {
		refused(fmt.Sprint("truncated to ", n), sealed[:n])
	}
	for i := 0; i < 20; i++ { // magic, format, mode, key id
		changed := slices.Clone(sealed[:200])
		changed[i] ^= 0x40
		refused(fmt.Sprint("byte ", i), changed)
	}
	for _, lie := range []uint16{0, 0xffff, 0x7fff} { // the length of the wrapped branch key
		changed := slices.Clone(sealed[:200])
		changed[24], changed[25] = byte(lie>>8), byte(lie)
		refused(fmt.Sprint("length ", lie), changed)
	}
	refused("nothing", nil)
	refused("64 KiB of zeros", make([]byte, 65_537))
	if n := w.root.calls.Load() - calls; n != 0 {
		t.Errorf("the root was called %d times", n)
	}
}
