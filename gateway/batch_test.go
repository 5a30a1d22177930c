package gateway_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/kms"
)

// contextsBody is the body of a batch of n data keys under contexts of their own.
func contextsBody(t *testing.T, n int) string {
	t.Helper()
	contexts := make([][]byte, n)
	for i := range contexts {
		contexts[i] = fmt.Appendf(nil, "object %d", i)
	}
	b, err := json.Marshal(map[string]any{"contexts": contexts})
	ok(t, err)
	return string(b)
}

// openingBody is the body of a batch that opens keys, which contextsBody made.
func openingBody(t *testing.T, keys []api.GenerateKeyResponse) string {
	t.Helper()
	items := make([]api.DecryptRequest, len(keys))
	for i, key := range keys {
		items[i] = api.DecryptRequest{Ciphertext: key.Ciphertext, Context: fmt.Appendf(nil, "object %d", i)}
	}
	b, err := json.Marshal(items)
	ok(t, err)
	return string(b)
}

func TestBatches(t *testing.T) {
	for _, mode := range []envelope.Mode{envelope.Branch, envelope.Direct} {
		t.Run(mode.String(), func(t *testing.T) { testBatches(t, mode) })
	}
}

func testBatches(t *testing.T, mode envelope.Mode) {
	w := newWorld(t, func(w *world) { w.mode = mode })
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	for _, c := range []*client{c, w.clientOf(&w.app, false)} {
		for _, n := range []int{0, 1, 300} {
			a := c.do("POST", "/v1/key/batch/generate/app-1", contextsBody(t, n))
			if a.StatusCode != 200 || a.ContentLength != int64(len(a.body)) || a.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("%d %s of %d bytes, Content-Length %d", a.StatusCode, a.Header.Get("Content-Type"), len(a.body), a.ContentLength)
			}
			var keys []api.GenerateKeyResponse
			ok(t, json.Unmarshal([]byte(a.body), &keys))
			if len(keys) != n || keys == nil {
				t.Fatalf("%d data keys, not %d", len(keys), n)
			}
			info := w.last()
			if n > 0 && (info["items"] != float64(n) || info["mode"] != mode.String() || info["key"] != "app-1" || info["version"] != 1.0 || info["operation"] != "key:batch-generate") {
				t.Errorf("audit entry is %v", info)
			}
			a = c.do("POST", "/v1/key/batch/decrypt/app-1", openingBody(t, keys))
			if a.StatusCode != 200 || a.ContentLength != int64(len(a.body)) {
				t.Fatalf("%d, %d bytes, Content-Length %d", a.StatusCode, len(a.body), a.ContentLength)
			}
			var opened []api.BatchDecryptItem
			ok(t, json.Unmarshal([]byte(a.body), &opened))
			for i := range keys {
				if opened[i].Error != "" || len(keys[i].Plaintext) != 32 || !bytes.Equal(opened[i].Plaintext, keys[i].Plaintext) {
					t.Fatalf("item %d: %q, or something else", i, opened[i].Error)
				}
			}
			if n == 0 {
				continue
			}
			var one api.DecryptResponse
			c.get("POST", "/v1/key/decrypt/app-1", ciphertextBody(keys[0].Ciphertext, "object 0"), &one)
			if !bytes.Equal(one.Plaintext, keys[0].Plaintext) {
				t.Error("decrypt opens an item to something else")
			}
		}
	}
}

func TestABatchFailsItemByItem(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	var keys []api.GenerateKeyResponse
	c.get("POST", "/v1/key/batch/generate/app-1", contextsBody(t, 4), &keys)
	keys[1].Ciphertext[50] ^= 1
	keys[2].Ciphertext = nil
	body := strings.Replace(openingBody(t, keys), `"ciphertext":null`, `"ciphertext":""`, 1)
	var opened []api.BatchDecryptItem
	c.get("POST", "/v1/key/batch/decrypt/app-1", body, &opened)
	for i, o := range opened {
		bad := i == 1 || i == 2
		if bad != (o.Error == "decryption failed: ciphertext is not authentic") || bad == bytes.Equal(o.Plaintext, keys[i].Plaintext) {
			t.Errorf("item %d: %q", i, o.Error)
		}
	}
	if e := w.last(); e["items"] != 4.0 || e["failed"] != 2.0 || e["outcome"] != "ok" {
		t.Errorf("audit entry is %v", e)
	}
	// All of them, as KES had it: one fails, all do.
	c.fails("POST", "/v1/key/bulk/decrypt/app-1", body, 400, "decryption failed: ciphertext is not authentic")
	if e := w.last(); e["items"] != 4.0 || e["failed"] != 2.0 || e["outcome"] != "invalid" {
		t.Errorf("audit entry is %v", e)
	}
	metrics := w.client(w.admin).do("GET", "/metrics", "").body
	for _, want := range []string{
		`keygate_batch_items_total{operation="key:batch-generate",result="ok"} 4`, `keygate_batch_items_total{operation="key:batch-decrypt",result="failed"} 2`,
		"keygate_branch_keys_made_total 1", "keygate_branch_cache_keys 1", "keygate_root_outage_seconds 0",
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("the metrics do not say %s", want)
		}
	}
}

func TestBulkDecryptIsThatOfKES(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	var keys []api.GenerateKeyResponse
	c.get("POST", "/v1/key/batch/generate/app-1", contextsBody(t, api.MaxBulk+1), &keys)
	var opened []api.DecryptResponse
	lenient := strings.Replace(openingBody(t, keys[:api.MaxBulk]), `"context"`, `"extra":[{}],"context"`, 1) + " trailing"
	c.get("POST", "/v1/key/bulk/decrypt/app-1", lenient, &opened)
	for i, o := range opened {
		if !bytes.Equal(o.Plaintext, keys[i].Plaintext) {
			t.Fatalf("item %d is something else", i)
		}
	}
	c.fails("POST", "/v1/key/bulk/decrypt/app-1", openingBody(t, keys), 400, "too many ciphertexts")
	c.fails("POST", "/v1/key/bulk/decrypt/app-1", `[{"ciphertext":"`+strings.Repeat("A", 1<<20)+`"}]`, 400, "invalid request body")
	c.fails("POST", "/v1/key/bulk/decrypt/app-1", `{}`, 400, "invalid request body")
	c.fails("POST", "/v1/key/bulk/decrypt/app-2", `[]`, 404, "key does not exist")
	if a := c.do("POST", "/v1/key/bulk/decrypt/app-1", `[]`); a.body != "[]\n" {
		t.Errorf("none are answered with %d %q", a.StatusCode, a.body)
	}
}

func TestBatchesAreStrictAndBounded(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	for _, body := range append([]string{`{"count":1,"count":2}`, `{"Count":1}`, `{"count":1,"name":"x"}`, `{}`, ""}, badBodies...) {
		c.fails("POST", "/v1/key/batch/generate/app-1", body, 400, "invalid request body")
	}
	for _, body := range append([]string{`[{"ciphertext":"","Context":""}]`, `[{"ciphertext":"","ciphertext":""}]`, `{}`, ""}, badBodies...) {
		if body == "[]" {
			continue
		}
		c.fails("POST", "/v1/key/batch/decrypt/app-1", body, 400, "invalid request body")
	}
	c.fails("POST", "/v1/key/batch/generate/app-1", `{"count":10001}`, 400, "too many items")
	c.fails("POST", "/v1/key/batch/decrypt/app-1", "["+strings.Repeat(`{"ciphertext":""},`, kms.MaxBatch)+`{"ciphertext":""}]`, 400, "too many items")
	c.fails("POST", "/v1/key/batch/generate/app-1", `{"count":1,"context":"`+strings.Repeat("A", api.MaxBatch)+`"}`, 400, "invalid request body")
	a := c.send("POST", "/v1/key/batch/generate/app-1", struct{ *strings.Reader }{strings.NewReader(`{"count":1,"context":"` + strings.Repeat("A", api.MaxBatch) + `"}`)})
	isError(t, "chunked", a, 400, "invalid request body")
	var keys []api.GenerateKeyResponse
	c.get("POST", "/v1/key/batch/generate/app-1", `{"count":10000,"context":"`+strings.Repeat("A", 999_000)+`"}`, &keys)
	if len(keys) != kms.MaxBatch {
		t.Errorf("%d data keys", len(keys))
	}
	c.fails("POST", "/v1/key/batch/generate/app-2", `{"count":1}`, 404, "key does not exist")
	c.fails("POST", "/v1/key/batch/generate/-", `{"count":1}`, 400, "key name '-' is empty, too long or contains invalid characters")
}

func TestCR13_WithoutPlaintextThereIsNone(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	a := c.do("POST", "/v1/key/generate/app-1", `{"plaintext":false,"context":"e30="}`)
	var one api.GenerateKeyResponse
	ok(t, json.Unmarshal([]byte(a.body), &one))
	if strings.Contains(a.body, "plaintext") || len(one.Ciphertext) == 0 {
		t.Errorf("generate answered %s", a.body)
	}
	var opened api.DecryptResponse
	c.get("POST", "/v1/key/decrypt/app-1", ciphertextBody(one.Ciphertext, "{}"), &opened)
	if len(opened.Plaintext) != 32 {
		t.Errorf("opened to %d bytes", len(opened.Plaintext))
	}
	a = c.do("POST", "/v1/key/batch/generate/app-1", `{"plaintext":false,"count":100}`)
	var keys []api.GenerateKeyResponse
	ok(t, json.Unmarshal([]byte(a.body), &keys))
	if strings.Contains(a.body, "plaintext") || len(keys) != 100 || a.ContentLength != int64(len(a.body)) {
		t.Errorf("batch answered %d, %.200s", len(keys), a.body)
	}
	for _, body := range []string{`{}`, `{"plaintext":true}`, `{"plaintext":null}`, ``} {
		c.get("POST", "/v1/key/generate/app-1", body, &one)
		if len(one.Plaintext) != 32 {
			t.Errorf("%s: no plaintext", body)
		}
		one.Plaintext = nil
	}
}

func TestTheRightToGenerateIsNoRightToBatches(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.state.Rules = w.rules([]string{"/v1/key/create/app-*", "/v1/key/generate/app-*", "/v1/key/decrypt/app-*", "/v1/key/batch/generate/app-batch"}, nil)
	})
	c := w.client(w.app)
	for _, name := range []string{"app-1", "app-batch"} {
		c.get("POST", "/v1/key/create/"+name, "", nil)
	}
	const denied = "not authorized: insufficient permissions"
	for _, path := range []string{"batch/generate", "batch/decrypt", "bulk/decrypt", "mode"} {
		c.fails("PUT", "/v1/key/"+path+"/app-1", `{"count":1}`, 403, denied)
	}
	c.get("PUT", "/v1/key/batch/generate/app-batch", `{"count":1}`, nil)
	c.fails("PUT", "/v1/key/batch/decrypt/app-batch", `[]`, 403, denied)
}

func TestABatchIsNotAnsweredBeforeItIsWrittenDown(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	ok(t, w.audit.Close())
	for _, path := range []string{"batch/generate", "batch/decrypt", "bulk/decrypt"} {
		a := c.do("POST", "/v1/key/"+path+"/app-1", `{"count":1}`)
		isError(t, path, a, 503, "audit log is unavailable")
	}
}

func TestBatchesWhileTheRootIsDown(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	c.get("POST", "/v1/key/create/app-1", "", nil)
	c.get("POST", "/v1/key/create/app-direct", `{"mode":"direct"}`, nil)
	var keys, direct []api.GenerateKeyResponse
	c.get("POST", "/v1/key/batch/generate/app-1", contextsBody(t, 2), &keys)
	c.get("POST", "/v1/key/batch/generate/app-direct", contextsBody(t, 2), &direct)
	w.root.down.Store(true)
	const down = "root of trust or key store is unavailable"
	c.fails("POST", "/v1/key/batch/generate/app-direct", `{"count":2}`, 503, down)
	c.fails("POST", "/v1/key/batch/decrypt/app-direct", openingBody(t, direct), 503, down)
	c.fails("POST", "/v1/key/bulk/decrypt/app-direct", openingBody(t, direct), 503, down)
	// One item that was proved bad: the others may be tried again.
	direct[1].Ciphertext = []byte("bad")
	var opened []api.BatchDecryptItem
	c.get("POST", "/v1/key/batch/decrypt/app-direct", openingBody(t, direct), &opened)
	if opened[0].Error != down || opened[1].Error != "decryption failed: ciphertext is not authentic" {
		t.Errorf("opened as %+v", opened)
	}
	// What is in memory goes on, also past its life, and everyone says so.
	c.get("POST", "/v1/key/batch/decrypt/app-1", openingBody(t, keys), nil)
	if e := w.last(); e["outage"] != nil {
		t.Errorf("audit entry of a branch key in its life is %v", e)
	}
	w.root.down.Store(false)
	c.get("POST", "/v1/key/generate/app-direct", "", nil) // the root is known to be back
	w.clock.Store(int64(kms.DefaultBranchLifetime))
	w.root.down.Store(true)
	for path, body := range map[string]string{"generate": "", "batch/generate": `{"count":2}`, "batch/decrypt": openingBody(t, keys)} {
		c.get("POST", "/v1/key/"+path+"/app-1", body, nil)
		if e := w.last(); e["outage"] != true || e["outcome"] != "ok" || e["mode"] != "branch" {
			t.Errorf("%s: audit entry is %v", path, e)
		}
	}
	var status api.StatusResponse
	w.client(w.admin).get("GET", "/v1/status", "", &status)
	if !status.RootUnavailable || status.RootOutage < 1 {
		t.Errorf("status is %+v", status)
	}
	if a := w.client(w.admin).do("GET", "/v1/ready", ""); a.StatusCode == 200 {
		t.Error("ready while the root of trust is down")
	}
	metrics := w.client(w.admin).do("GET", "/metrics", "").body
	if strings.Contains(metrics, "keygate_branch_outage_uses_total 0\n") || strings.Contains(metrics, "keygate_root_outage_seconds 0\n") {
		t.Error("the metrics do not tell of the outage")
	}
	w.root.down.Store(false)
	eventually(t, "the end of the outage, which is looked for once a second", func() bool {
		c.get("POST", "/v1/key/generate/app-1", "", nil)
		return w.last()["outage"] == nil
	})
}

func TestModesOfKeys(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.app)
	mode := func(name string) string {
		t.Helper()
		var info api.DescribeKeyResponse
		c.get("GET", "/v1/key/describe/"+name, "", &info)
		return info.Mode
	}
	for i, test := range []struct{ body, want string }{
		{"", "branch"}, {`{"mode":"direct"}`, "direct"}, {`{"mode":"branch"}`, "branch"}, {`{"mode":"default"}`, "branch"}, {`{"other":1,"mode":"direct"}`, "direct"},
		{"x", "branch"}, {`[]`, "branch"}, {`{"name":"x"}`, "branch"}, {`"mode"`, "branch"}, {strings.Repeat(" ", 5000) + `{"mode":"direct"}`, "branch"},
	} {
		name := fmt.Sprintf("app-%d", i)
		c.get("POST", "/v1/key/create/"+name, test.body, nil)
		if got := mode(name); got != test.want {
			t.Errorf("%.50s: mode is %s, not %s", test.body, got, test.want)
		}
	}
	const bad = "mode is none of direct, branch and default"
	for _, body := range []string{`{"mode":"fast"}`, `{"mode":""}`, `{"mode":1}`, `{"mode":null}`, `{"Mode":"direct"}`, `{"mode":"direct","mode":"branch"}`, `{"MODE":"direct","mode":"direct"}`} {
		c.fails("POST", "/v1/key/create/app-bad", body, 400, bad)
	}
	c.fails("GET", "/v1/key/describe/app-bad", "", 404, "key does not exist")

	isEmpty(t, c.do("PUT", "/v1/key/mode/app-0", `{"mode":"direct"}`))
	if e := w.last(); e["operation"] != "key:mode" || e["key"] != "app-0" || e["mode"] != "direct" {
		t.Errorf("audit entry is %v", e)
	}
	var dek api.GenerateKeyResponse
	c.get("POST", "/v1/key/generate/app-0", "", &dek)
	if e := w.last(); e["mode"] != "direct" || mode("app-0") != "direct" {
		t.Errorf("after the change mode is %s and the audit entry is %v", mode("app-0"), e)
	}
	isEmpty(t, c.do("POST", "/v1/key/mode/app-0", `{"mode":"default"}`))
	c.get("POST", "/v1/key/decrypt/app-0", ciphertextBody(dek.Ciphertext, ""), nil)
	c.fails("PUT", "/v1/key/mode/app-0", `{"mode":"fast"}`, 400, bad)
	for _, body := range []string{"", "{}", `{"mode":"direct","x":1}`, `{"Mode":"direct"}`, `{"mode":"direct","mode":"direct"}`} {
		c.fails("PUT", "/v1/key/mode/app-0", body, 400, "invalid request body")
	}
	c.fails("PUT", "/v1/key/mode/app-none", `{"mode":"direct"}`, 404, "key does not exist")
}

func TestSecretsOfBatchesTurnUpNowhere(t *testing.T) {
	w := newWorld(t)
	c := w.client(w.admin)
	c.get("POST", "/v1/key/create/a", "", nil)
	context := []byte("context canary 5f3e9a7c41")
	canaries := []canary{{"context", context}}
	var keys []api.GenerateKeyResponse
	c.get("POST", "/v1/key/batch/generate/a", fmt.Sprintf(`{"count":3,"context":"%s"}`, base64.StdEncoding.EncodeToString(context)), &keys)
	for _, key := range keys {
		canaries = append(canaries, canary{"DEK", key.Plaintext})
		body := "[" + ciphertextBody(key.Ciphertext, string(context)) + "," + ciphertextBody(key.Plaintext, "") + "]"
		c.do("POST", "/v1/key/batch/decrypt/a", body)
		c.do("POST", "/v1/key/bulk/decrypt/a", body)
		c.do("POST", "/v1/key/batch/generate/a", body)
	}
	places := w.places()
	addFiles(t, places, w.store)
	absent(t, canaries, places)
}
