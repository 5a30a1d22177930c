package gateway_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate/keygate/api"
)

// The conformance test checks the contract of KES through HTTP only. It runs
// against a gateway of its own, or, with these environment variables, against
// any server: its URL, PEM files of the admin's certificate and key and of the
// authority of the server's certificate.
const (
	serverEnv = "KEYGATE_TEST_SERVER"
	certEnv   = "KEYGATE_TEST_CERT"
	keyEnv    = "KEYGATE_TEST_KEY"
	caEnv     = "KEYGATE_TEST_CACERT"
)

// A target is the server that is tested. Names of keys begin with prefix.
type target struct {
	*client // of the admin
	h1      *client
	other   *client // of an identity that is not known
	prefix  string
}

func newTarget(t *testing.T) *target {
	t.Helper()
	prefix := fmt.Sprintf("conf-%x-", time.Now().UnixNano())
	if os.Getenv(serverEnv) == "" {
		w := newWorld(t)
		stranger := newCertificate(t, nil)
		return &target{w.client(w.admin), w.clientOf(&w.admin, false), w.client(stranger), prefix}
	}
	admin, err := tls.LoadX509KeyPair(os.Getenv(certEnv), os.Getenv(keyEnv))
	ok(t, err)
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(os.Getenv(caEnv))
	ok(t, err)
	pool.AppendCertsFromPEM(pem)
	open := func(c tls.Certificate, http2 bool) *client {
		cfg := &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{c}}
		tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: http2, DisableCompression: true}
		return &client{t: t, base: os.Getenv(serverEnv), http: &http.Client{Transport: tr, Timeout: 20 * time.Second}}
	}
	return &target{open(admin, true), open(admin, false), open(newCertificate(t, nil), true), prefix}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestConformance(t *testing.T) {
	c := newTarget(t)
	for _, test := range []struct {
		name string
		run  func(t *testing.T, c *target)
	}{
		{"routes", conformRoutes},
		{"methods", conformMethods},
		{"unknown routes", conformUnknownRoutes},
		{"create", conformCreate},
		{"describe", conformDescribe},
		{"names", conformNames},
		{"generate and decrypt", conformDataKeys},
		{"encrypt", conformEncrypt},
		{"hmac", conformHMAC},
		{"import", conformImport},
		{"ciphertexts of KES", conformCiphertexts},
		{"bodies without a length", conformChunked},
		{"lenient JSON", conformLenient},
		{"bad bodies", conformBadBodies},
		{"delete", conformDelete},
		{"list", conformList},
		{"a stranger", conformStranger},
		{"policies and identities", conformPolicies},
		{"version and status", conformStatus},
		{"metrics", conformMetrics},
		{"log streams", conformStreams},
	} {
		t.Run(test.name, func(t *testing.T) {
			sub := *c
			sub.client, sub.h1, sub.other = c.client.in(t), c.h1.in(t), c.other.in(t)
			test.run(t, &sub)
		})
	}
}

// in returns the client for a subtest.
func (c *client) in(t *testing.T) *client {
	sub := *c
	sub.t = t
	return &sub
}

// kesRoutes is the route table of KES: what an old client may call.
var kesRoutes = []api.Route{
	{Method: "GET", Path: "/version", Timeout: 10},
	{Method: "GET", Path: "/v1/ready", Timeout: 15},
	{Method: "GET", Path: "/v1/status", Timeout: 15},
	{Method: "GET", Path: "/v1/metrics", Timeout: 15},
	{Method: "GET", Path: "/v1/api", Timeout: 10},
	{Method: "PUT", Path: "/v1/key/create/", Timeout: 15},
	{Method: "PUT", Path: "/v1/key/import/", MaxBody: 1000000, Timeout: 15},
	{Method: "GET", Path: "/v1/key/describe/", Timeout: 15},
	{Method: "GET", Path: "/v1/key/list/", Timeout: 15},
	{Method: "DELETE", Path: "/v1/key/delete/", Timeout: 15},
	{Method: "PUT", Path: "/v1/key/generate/", MaxBody: 1000000, Timeout: 15},
	{Method: "PUT", Path: "/v1/key/encrypt/", MaxBody: 1000000, Timeout: 15},
	{Method: "PUT", Path: "/v1/key/decrypt/", MaxBody: 1000000, Timeout: 15},
	{Method: "PUT", Path: "/v1/key/hmac/", MaxBody: 1000000, Timeout: 15},
	{Method: "GET", Path: "/v1/policy/describe/", Timeout: 15},
	{Method: "GET", Path: "/v1/policy/read/", Timeout: 15},
	{Method: "GET", Path: "/v1/policy/list/", Timeout: 15},
	{Method: "GET", Path: "/v1/identity/describe/", Timeout: 15},
	{Method: "GET", Path: "/v1/identity/list/", Timeout: 15},
	{Method: "GET", Path: "/v1/identity/self/describe", Timeout: 15},
	{Method: "GET", Path: "/v1/log/error"},
	{Method: "GET", Path: "/v1/log/audit"},
}

func conformRoutes(t *testing.T, c *target) {
	var routes []api.Route
	c.get("GET", "/v1/api", "", &routes)
	for _, want := range kesRoutes {
		if !slices.Contains(routes, want) {
			t.Errorf("route %+v is not in the answer of /v1/api", want)
		}
	}
	if !slices.IsSortedFunc(routes, func(a, b api.Route) int { return strings.Compare(a.Path, b.Path) }) {
		t.Error("the routes are not sorted")
	}
}

func conformMethods(t *testing.T, c *target) {
	for _, route := range kesRoutes {
		path := strings.TrimSuffix(route.Path, "/") + "/x"
		if !strings.HasSuffix(route.Path, "/") {
			path = route.Path
		}
		for _, method := range []string{"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"} {
			if method == route.Method || method == "POST" && route.Method == "PUT" {
				continue
			}
			// Before anything is known of the client.
			for _, who := range []*client{c.client, c.other} {
				a := who.fails(method, path, "", 405, fmt.Sprintf("received method '%s' expected '%s'", method, route.Method))
				if a.Header.Get("Allow") != route.Method || a.Header.Get("Accept") != route.Method {
					t.Errorf("%s %s: Allow is %q, Accept %q", method, path, a.Header.Get("Allow"), a.Header.Get("Accept"))
				}
			}
		}
		if a := c.do("HEAD", path, ""); a.StatusCode != 405 || a.body != "" {
			t.Errorf("HEAD %s: %d %q", path, a.StatusCode, a.body)
		}
	}
}

func conformUnknownRoutes(t *testing.T, c *target) {
	for _, path := range []string{"/", "/v1", "/v1/", "/v2/key/create/x", "/v1/key/", "/v1/keys", "/v1/key/bulk/encrypt/x",
		"/v1/secret/create/x", "/v1/enclave/describe/x", "/v1/policy/write/x", "/V1/key/create/x", "/v1//key/create/x", "/favicon.ico"} {
		for _, method := range []string{"GET", "POST", "DELETE", "BREW"} {
			c.fails(method, path, "", 501, "not implemented")
		}
	}
}

func conformCreate(t *testing.T, c *target) {
	name := c.prefix + "create"
	for _, method := range []string{"PUT", "POST"} {
		a := c.do(method, "/v1/key/create/"+name+method, "ignored")
		isEmpty(t, a)
		c.fails(method, "/v1/key/create/"+name+method, "", 400, "key already exists")
	}
}

// isEmpty checks for a success without a body.
func isEmpty(t *testing.T, a answer) {
	t.Helper()
	if a.StatusCode != 200 || a.body != "" || a.ContentLength != 0 || a.Header.Values("Content-Type") != nil {
		t.Errorf("answered %d %q, Content-Length %d, Content-Type %q", a.StatusCode, a.body, a.ContentLength, a.Header.Get("Content-Type"))
	}
}

func conformDescribe(t *testing.T, c *target) {
	name := c.prefix + "describe"
	c.fails("GET", "/v1/key/describe/"+name, "", 404, "key does not exist")
	before := time.Now().Add(-time.Second)
	c.get("POST", "/v1/key/create/"+name, "", nil)
	a := c.do("GET", "/v1/key/describe/"+name, "")
	var got map[string]any
	ok(t, json.Unmarshal([]byte(a.body), &got))
	if a.Header.Get("Content-Type") != "application/json" || !strings.HasSuffix(a.body, "}\n") || a.ContentLength != int64(len(a.body)) {
		t.Errorf("answered %q, %q", a.Header.Get("Content-Type"), a.body)
	}
	if got["name"] != name || got["algorithm"] != "AES256" || len(fmt.Sprint(got["created_by"])) != 64 {
		t.Errorf("answered %s", a.body)
	}
	created, err := time.Parse(time.RFC3339Nano, fmt.Sprint(got["created_at"]))
	if err != nil || created.Before(before) || created.After(time.Now().Add(time.Second)) || !strings.HasSuffix(fmt.Sprint(got["created_at"]), "Z") {
		t.Errorf("created at %v: %v", got["created_at"], err)
	}
}

// badNames are no names of keys. Each stands in a path as it is sent, and as it
// is read.
var badNames = []struct{ sent, read string }{
	{"", ""}, {".", "."}, {"..", ".."}, {"../x", "../x"}, {"a/b", "a/b"}, {"a%2fb", "a/b"}, {"%2e%2e%2fx", "../x"}, {"a%5Cb", `a\b`},
	{"a%00b", "a\x00b"}, {"a.b", "a.b"}, {"a.", "a."}, {"a%20", "a "}, {"-a", "-a"}, {"a-", "a-"}, {"_", "_"}, {"a;x", "a;x"}, {"a*", "a*"},
	{"%C3%A4", "ä"}, {"a/", "a/"}, {"/a", "/a"}, {"a%0Ab", "a\nb"}, {strings.Repeat("a", 81), strings.Repeat("a", 81)}, {"a'b", "a'b"},
}

func conformNames(t *testing.T, c *target) {
	for _, bad := range badNames {
		message := "key name '" + bad.read + "' is empty, too long or contains invalid characters"
		for _, route := range kesRoutes {
			if strings.HasPrefix(route.Path, "/v1/key/") && route.Path != "/v1/key/list/" {
				c.fails(route.Method, route.Path+bad.sent, "{}", 400, message)
				c.other.fails(route.Method, route.Path+bad.sent, "{}", 403, "not authorized: insufficient permissions")
			}
		}
		c.fails("GET", "/v1/policy/read/"+bad.sent, "", 400, "policy name '"+bad.read+"' is empty, too long or contains invalid characters")
		c.fails("GET", "/v1/policy/describe/"+bad.sent, "", 400, "policy name '"+bad.read+"' is empty, too long or contains invalid characters")
		c.fails("GET", "/v1/identity/describe/"+bad.sent, "", 400, "identity '"+bad.read+"' is empty, too long or contains invalid characters")
	}
	c.fails("POST", "/v1/key/create", "", 400, "key name '' is empty, too long or contains invalid characters")
	for _, good := range []string{"0", "_a", "__", "a_b-C", strings.Repeat("a", 80)} {
		c.fails("GET", "/v1/key/describe/"+good, "", 404, "key does not exist")
	}
}

func conformDataKeys(t *testing.T, c *target) {
	name := c.prefix + "dek"
	for _, path := range []string{"/v1/key/generate/", "/v1/key/decrypt/"} {
		c.fails("POST", path+name, `{"ciphertext":"AAAA"}`, 404, "key does not exist")
	}
	c.get("POST", "/v1/key/create/"+name, "", nil)
	seen := map[string]bool{string(make([]byte, 32)): true} // no DEK is of zeros, or made twice
	// Absent, null and empty contexts are the same.
	for _, contexts := range [][]string{{``, `{}`, `{"context":null}`, `{"context":""}`, `{"version":1}`}, {`{"context":"e30="}`}} {
		for _, generate := range contexts {
			var dek api.GenerateKeyResponse
			c.get("POST", "/v1/key/generate/"+name, generate, &dek)
			if len(dek.Plaintext) != 32 || len(dek.Ciphertext) == 0 {
				t.Fatalf("DEK of %d bytes, ciphertext of %d", len(dek.Plaintext), len(dek.Ciphertext))
			}
			if seen[string(dek.Plaintext)] {
				t.Error("the DEK is of zeros, or was made before")
			}
			seen[string(dek.Plaintext)] = true
			for _, decrypt := range contexts {
				if decrypt == "" {
					continue
				}
				body := strings.Replace(decrypt, "{", fmt.Sprintf(`{"ciphertext":"%s",`, base64.StdEncoding.EncodeToString(dek.Ciphertext)), 1)
				body = strings.Replace(body, ",}", "}", 1)
				var got api.DecryptResponse
				c.get("PUT", "/v1/key/decrypt/"+name, body, &got)
				if !slices.Equal(got.Plaintext, dek.Plaintext) {
					t.Errorf("generated with %q, decrypted with %s: something else", generate, body)
				}
			}
			c.fails("POST", "/v1/key/decrypt/"+name, ciphertextBody(dek.Ciphertext, "other"), 400, "decryption failed: ciphertext is not authentic")
		}
	}
	c.fails("POST", "/v1/key/decrypt/"+name, `{"ciphertext":"AAAA"}`, 400, "decryption failed: ciphertext is not authentic")
	c.fails("POST", "/v1/key/decrypt/"+name, `{}`, 400, "decryption failed: ciphertext is not authentic")
	c.fails("POST", "/v1/key/decrypt/"+name, ``, 400, "invalid request body")
	a := c.do("POST", "/v1/key/generate/"+name, "")
	if !strings.HasPrefix(a.body, `{"plaintext":"`) || !strings.HasSuffix(a.body, "\"}\n") || a.ContentLength != int64(len(a.body)) || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("answered %q %q", a.Header.Get("Content-Type"), a.body)
	}
}

func ciphertextBody(ciphertext []byte, context string) string {
	return fmt.Sprintf(`{"ciphertext":"%s","context":"%s"}`, base64.StdEncoding.EncodeToString(ciphertext), b64(context))
}

func conformEncrypt(t *testing.T, c *target) {
	name := c.prefix + "encrypt"
	c.fails("POST", "/v1/key/encrypt/"+name, `{"plaintext":"AAAA"}`, 404, "key does not exist")
	c.get("POST", "/v1/key/create/"+name, "", nil)
	var out api.EncryptResponse
	c.get("POST", "/v1/key/encrypt/"+name, fmt.Sprintf(`{"plaintext":"%s","context":"%s"}`, b64("hello"), b64("ctx")), &out)
	var in api.DecryptResponse
	c.get("POST", "/v1/key/decrypt/"+name, ciphertextBody(out.Ciphertext, "ctx"), &in)
	if string(in.Plaintext) != "hello" {
		t.Errorf("decrypts to %q", in.Plaintext)
	}
	c.fails("POST", "/v1/key/encrypt/"+name, "", 400, "invalid request body")
}

func conformHMAC(t *testing.T, c *target) {
	name := c.prefix + "hmac"
	c.fails("PUT", "/v1/key/hmac/"+name, `{"message":"AAAA"}`, 404, "key does not exist")
	c.get("POST", "/v1/key/create/"+name, "", nil)
	var first, again, other api.HMACResponse
	c.get("PUT", "/v1/key/hmac/"+name, fmt.Sprintf(`{"message":"%s"}`, b64("root access key")), &first)
	c.get("POST", "/v1/key/hmac/"+name, fmt.Sprintf(`{"message":"%s"}`, b64("root access key")), &again)
	c.get("PUT", "/v1/key/hmac/"+name, fmt.Sprintf(`{"message":"%s"}`, b64("root secret key")), &other)
	if len(first.HMAC) != 32 || !slices.Equal(first.HMAC, again.HMAC) || slices.Equal(first.HMAC, other.HMAC) {
		t.Errorf("HMACs are %x, %x and %x", first.HMAC, again.HMAC, other.HMAC)
	}
}

// kesKey is the key of the vector: 00 01 02 ... 1f.
func kesKey() []byte {
	key := make([]byte, 32)
	for i := range key {
		key[i] = byte(i)
	}
	return key
}

func importBody(key []byte, cipher string) string {
	return fmt.Sprintf(`{"key":"%s","cipher":"%s"}`, base64.StdEncoding.EncodeToString(key), cipher)
}

func conformImport(t *testing.T, c *target) {
	name := c.prefix + "import"
	path := "/v1/key/import/" + name
	for cipher, message := range map[string]string{
		"ChaCha20": "algorithm 'ChaCha20' is not supported", "": "algorithm '' is not supported",
		"XCHACHA20-POLY1305": "algorithm 'XCHACHA20-POLY1305' is not supported",
	} {
		c.fails("POST", path, importBody(kesKey(), cipher), 406, message)
	}
	c.fails("POST", path, `{"key":"AAAA"}`, 406, "algorithm '' is not supported")
	for _, n := range []int{0, 16, 31, 33} {
		c.fails("POST", path, importBody(make([]byte, n), "AES256"), 406, "invalid key size for 'AES256'")
	}
	for _, body := range []string{"", "x", `{"key":1,"cipher":"AES256"}`, `{"key":"*"}`, strings.Repeat(" ", 1000001)} {
		c.fails("POST", path, body, 400, "invalid import key request body")
	}
	c.fails("GET", "/v1/key/describe/"+name, "", 404, "key does not exist")
	isEmpty(t, c.do("POST", path, importBody(kesKey(), "AES256")))
	isEmpty(t, c.do("PUT", path+"-2", importBody(kesKey(), "AES256-GCM_SHA256")))
	c.fails("POST", path, importBody(kesKey(), "AES256"), 400, "key already exists")
}

// vector is a ciphertext of KES in its three forms.
const (
	vectorContext = `{"bucket":"bucket/object"}`
	vector        = "e/un4UG8QqWpJ5MgeoNCJKvvhfUHzgAWAn/UyTB/Go+sll7dGO58XlxLP+HyW7ibqqqqqqqqqqqqqqqqqqqqqru7u7u7u7u7u7u7uw=="
)

func vectorForms(t *testing.T) map[string][]byte {
	raw, err := base64.StdEncoding.DecodeString(vector)
	ok(t, err)
	sealed, iv, nonce := raw[:48], raw[48:64], raw[64:]
	asJSON, err := json.Marshal(map[string]any{"aead": "AES-256-GCM-HMAC-SHA-256", "id": "0102", "iv": iv, "nonce": nonce, "bytes": sealed})
	ok(t, err)
	bin := func(b []byte) []byte { return append([]byte{0xc4, byte(len(b))}, b...) }
	str := func(s string) []byte { return append([]byte{0xa0 | byte(len(s))}, s...) }
	return map[string][]byte{
		"raw":     raw,
		"JSON":    asJSON,
		"msgpack": slices.Concat([]byte{0x95}, str("AES256-GCM_SHA256"), str("0102"), bin(iv), bin(nonce), bin(sealed)),
	}
}

func conformCiphertexts(t *testing.T, c *target) {
	name := c.prefix + "kes"
	c.get("POST", "/v1/key/import/"+name, importBody(kesKey(), "AES256"), nil)
	for form, ciphertext := range vectorForms(t) {
		var out api.DecryptResponse
		c.get("POST", "/v1/key/decrypt/"+name, ciphertextBody(ciphertext, vectorContext), &out)
		if string(out.Plaintext) != strings.Repeat("\x11", 32) {
			t.Errorf("%s: decrypts to %x", form, out.Plaintext)
		}
		c.fails("POST", "/v1/key/decrypt/"+name, ciphertextBody(ciphertext, ""), 400, "decryption failed: ciphertext is not authentic")
	}
}

// conformChunked sends bodies as the KES SDK does: without a length.
func conformChunked(t *testing.T, c *target) {
	name := c.prefix + "chunked"
	c.get("POST", "/v1/key/create/"+name, "", nil)
	for proto, cl := range map[string]*client{"HTTP/1.1": c.h1, "HTTP/2.0": c.client} {
		unknown := func(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) }
		a := cl.send("POST", "/v1/key/generate/"+name, unknown(`{"context":"e30="}`))
		if a.StatusCode != 200 || a.Proto != proto {
			t.Fatalf("%s: %s %d %s", proto, a.Proto, a.StatusCode, a.body)
		}
		var dek api.GenerateKeyResponse
		ok(t, json.Unmarshal([]byte(a.body), &dek))
		if a := cl.send("POST", "/v1/key/decrypt/"+name, unknown(ciphertextBody(dek.Ciphertext, "{}"))); a.StatusCode != 200 {
			t.Errorf("%s: the context of a body without a length was dropped: %d %s", proto, a.StatusCode, a.body)
		}
		isError(t, proto, cl.send("POST", "/v1/key/decrypt/"+name, unknown(ciphertextBody(dek.Ciphertext, ""))), 400, "decryption failed: ciphertext is not authentic")
		isError(t, proto, cl.send("POST", "/v1/key/generate/"+name, unknown(strings.Repeat(" ", 1000001))), 400, "invalid request body")
	}
}

func conformLenient(t *testing.T, c *target) {
	name := c.prefix + "lenient"
	c.get("POST", "/v1/key/create/"+name, "", nil)
	for _, body := range []string{
		`{"context":"e30=","unknown":{"a":[1,2]}}`, `{"context":"e30="} trailing`, `{"context":"e30="}{"context":"AAAA"}`,
		` {"CONTEXT":"e30="}`, `{"context":"AAAA","context":"e30="}`, "{\"context\":\"e3\\n0=\"}",
	} {
		var dek api.GenerateKeyResponse
		c.get("POST", "/v1/key/generate/"+name, body, &dek)
		c.get("POST", "/v1/key/decrypt/"+name, ciphertextBody(dek.Ciphertext, "{}"), nil)
	}
}

func conformBadBodies(t *testing.T, c *target) {
	name := c.prefix + "bad"
	c.get("POST", "/v1/key/create/"+name, "", nil)
	for _, op := range []string{"generate", "encrypt", "decrypt", "hmac"} {
		for _, body := range badBodies {
			if op == "hmac" {
				body = strings.ReplaceAll(body, `"context"`, `"message"`)
			}
			c.fails("POST", "/v1/key/"+op+"/"+name, body, 400, "invalid request body")
		}
	}
}

func conformDelete(t *testing.T, c *target) {
	name := c.prefix + "delete"
	c.fails("DELETE", "/v1/key/delete/"+name, "", 404, "key does not exist")
	c.get("POST", "/v1/key/create/"+name, "", nil)
	isEmpty(t, c.do("DELETE", "/v1/key/delete/"+name, ""))
	a := c.do("POST", "/v1/key/generate/"+name, "")
	if a.StatusCode == 200 {
		t.Error("a deleted key makes DEKs")
	}
}

func conformList(t *testing.T, c *target) {
	const keys = 1100
	prefix := c.prefix + "ls-"
	var names []string
	for i := range keys {
		names = append(names, fmt.Sprintf("%s%04d", prefix, i))
	}
	work := make(chan string, keys)
	for _, name := range names {
		work <- name
	}
	close(work)
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() { // a failure ends this one, and the others go on
			for name := range work {
				c.get("POST", "/v1/key/create/"+name, "", nil)
			}
		})
	}
	workers.Wait()
	for _, pattern := range []string{prefix, prefix + "*", prefix + "%2A"} {
		var page api.ListKeysResponse
		c.get("GET", "/v1/key/list/"+pattern, "", &page)
		if !slices.Equal(page.Names, names) || page.ContinueAt != "" {
			t.Errorf("list %q: %d names, continue at %q", pattern, len(page.Names), page.ContinueAt)
		}
	}
	for _, all := range []string{"/v1/key/list", "/v1/key/list/", "/v1/key/list/*", "/v1/key/list/%2A"} {
		var page api.ListKeysResponse
		c.get("GET", all, "", &page)
		if len(page.Names) < keys || !slices.IsSorted(page.Names) || page.ContinueAt != "" {
			t.Errorf("%s: %d names, continue at %q", all, len(page.Names), page.ContinueAt)
		}
	}
	if a := c.do("GET", "/v1/key/list/"+prefix+"none", ""); a.body != "{\"names\":[]}\n" {
		t.Errorf("a list of none is %q", a.body)
	}
	for _, bad := range []string{"a**", "*a", "a.b", "../*", "-a", strings.Repeat("a", 81)} {
		for _, what := range []string{"key", "policy", "identity"} {
			c.fails("GET", "/v1/"+what+"/list/"+bad, "", 400, "listing pattern '"+bad+"' is empty, too long or is invalid")
		}
	}
}

func conformStranger(t *testing.T, c *target) {
	for _, route := range kesRoutes {
		switch route.Path {
		case "/version", "/v1/identity/self/describe":
			continue // for everyone
		}
		c.other.fails(route.Method, route.Path, "", 403, "not authorized: insufficient permissions")
	}
	c.other.get("GET", "/version", "", nil)
	var self map[string]any
	c.other.get("GET", "/v1/identity/self/describe", "", &self)
	if len(fmt.Sprint(self["identity"])) != 64 || self["admin"] != nil || self["policy"] != nil {
		t.Errorf("a stranger is %v", self)
	}
}
