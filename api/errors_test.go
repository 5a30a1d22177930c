package api_test

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/kms"
)

// sentinels is every error of kms and keystore that a client can meet. A test
// compares it with the source of the two packages.
var sentinels = []struct {
	name    string
	err     error
	status  int
	message string
}{
	{"kms.ErrKeyNotFound", kms.ErrKeyNotFound, 404, "key does not exist"},
	{"kms.ErrKeyExists", kms.ErrKeyExists, 400, "key already exists"},
	{"kms.ErrPendingDeletion", kms.ErrPendingDeletion, 409, "key is pending deletion: neither it nor its name can be used"},
	{"kms.ErrName", kms.ErrName, 400, "key name '' is empty, too long or contains invalid characters"},
	{"kms.ErrCiphertext", kms.ErrCiphertext, 400, "decryption failed: ciphertext is not authentic"},
	{"kms.ErrExhausted", kms.ErrExhausted, 409, "key version has reached its limit of operations: rotate it"},
	{"kms.ErrNoMAC", kms.ErrNoMAC, 409, "key does not support HMAC"},
	{"kms.ErrKeySize", kms.ErrKeySize, 406, "invalid key size for 'AES256'"},
	{"kms.ErrCorrupt", kms.ErrCorrupt, 500, "key record is corrupt"},
	{"kms.ErrUnsupported", kms.ErrUnsupported, 501, "not supported"},
	{"kms.ErrDenied", kms.ErrDenied, 503, "access to the root of trust or key store is denied"},
	{"kms.ErrUnavailable", kms.ErrUnavailable, 503, "root of trust or key store is unavailable"},
	{"keystore.ErrNotFound", keystore.ErrNotFound, 404, "key does not exist"},
	{"keystore.ErrExists", keystore.ErrExists, 400, "key already exists"},
	{"keystore.ErrConflict", keystore.ErrConflict, 503, "key was changed at the same time"},
	{"keystore.ErrDenied", keystore.ErrDenied, 503, "access to the root of trust or key store is denied"},
	{"keystore.ErrCorrupt", keystore.ErrCorrupt, 500, "key record is corrupt"},
	{"keystore.ErrRights", keystore.ErrRights, 500, "key record is corrupt: its file has a wrong owner or mode"},
	{"keystore.ErrUnavailable", keystore.ErrUnavailable, 503, "key store is unavailable"},
	{"keystore.ErrNoWatch", keystore.ErrNoWatch, 501, "not supported"},
	{"keystore.ErrName", keystore.ErrName, 400, "key name '' is empty, too long or contains invalid characters"},
}

func TestEverySentinelHasItsAnswerAndTheClientReadsItBack(t *testing.T) {
	for _, s := range sentinels {
		answer := api.ErrorOf(fmt.Errorf("gateway: generate: %w", s.err))
		if answer.Status != s.status || answer.Message != s.message {
			t.Errorf("%s is answered %d %q, not %d %q", s.name, answer.Status, answer.Message, s.status, s.message)
		}
		got := roundTrip(t, answer)
		if !errors.Is(got, s.err) {
			t.Errorf("%s: the client's %v is not it", s.name, got)
		}
		for _, other := range sentinels {
			same := other.status == s.status && other.message == s.message
			store := s.err == keystore.ErrUnavailable && other.err == kms.ErrUnavailable
			rights := s.err == keystore.ErrRights && (other.err == kms.ErrCorrupt || other.err == keystore.ErrCorrupt)
			if errors.Is(got, other.err) != (same || store || rights) {
				t.Errorf("the client takes %s for %s", s.name, other.name)
			}
		}
	}
}

func TestTheTestKnowsEverySentinel(t *testing.T) {
	known := make(map[string]bool)
	for _, s := range sentinels {
		known[s.name] = true
	}
	for _, pkg := range []string{"kms", "keystore"} {
		n := 0
		for _, name := range exportedErrors(t, "../"+pkg) {
			n++
			if !known[pkg+"."+name] {
				t.Errorf("%s.%s has no answer in the test's table", pkg, name)
			}
		}
		if n == 0 {
			t.Errorf("found no error in package %s", pkg)
		}
	}
}

// exportedErrors returns the names of the package variables that start with
// Err.
func exportedErrors(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			names = append(names, errorVariables(decl)...)
		}
	}
	return names
}

func errorVariables(decl ast.Decl) (names []string) {
	gen, ok := decl.(*ast.GenDecl)
	if !ok || gen.Tok != token.VAR {
		return nil
	}
	for _, spec := range gen.Specs {
		for _, name := range spec.(*ast.ValueSpec).Names {
			if strings.HasPrefix(name.Name, "Err") {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

func roundTrip(t *testing.T, e *api.Error) error {
	t.Helper()
	return api.ReadError(&http.Response{
		StatusCode: e.Status, Status: fmt.Sprint(e.Status, " x"),
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   io.NopCloser(strings.NewReader(string(e.AppendBody(nil)))),
	})
}

func TestWhatIsUnsureIsNeverAbsent(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("%w: %w", kms.ErrUnavailable, keystore.ErrNotFound),
		fmt.Errorf("%w: %w", keystore.ErrUnavailable, kms.ErrKeyNotFound),
		fmt.Errorf("%w: %w", kms.ErrKeyNotFound, kms.ErrUnavailable),
		fmt.Errorf("%w: %w", kms.ErrKeyNotFound, context.DeadlineExceeded),
		context.Canceled,
	} {
		if got := api.ErrorOf(err); got.Status != 503 {
			t.Errorf("%v is answered %d %q", err, got.Status, got.Message)
		}
	}
}

func TestPendingDeletionSaysUntilWhen(t *testing.T) {
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	got := roundTrip(t, api.ErrorOf(fmt.Errorf("x: %w", &kms.PendingDeletionError{Until: until})))
	want := "key is pending deletion: neither it nor its name can be used; it is kept until 2030-01-02T02:04:05Z"
	if got.Error() != want || !errors.Is(got, kms.ErrPendingDeletion) {
		t.Errorf("got %q", got)
	}
	if errors.Is(got, kms.ErrKeyNotFound) || errors.Is(got, kms.ErrKeyExists) {
		t.Error("a client takes it for a key that is absent or in use")
	}
}

func TestUnknownErrorsTellNothing(t *testing.T) {
	got := api.ErrorOf(errors.New("hsm: PIN 1234 in slot 7"))
	if *got != *api.ErrInternal || got.Status != 500 || got.Message != "internal error" {
		t.Errorf("answered %d %q", got.Status, got.Message)
	}
}

func TestErrorBodyIsByteForByteTheContracts(t *testing.T) {
	for text, want := range map[string]string{
		"key does not exist":     "{\"message\":\"key does not exist\"\n}",
		"method 'A' <b> & \"c\"": "{\"message\":\"method 'A' <b> & \\\"c\\\"\"\n}",
		"a\nb\x1b\xff":           "{\"message\":\"a\\nb\\u001b\\ufffd\"\n}",
	} {
		if got := string((&api.Error{Status: 400, Message: text}).AppendBody(nil)); got != want {
			t.Errorf("%q: body is %q, not %q", text, got, want)
		}
	}
}

func TestReadErrorOfOtherServers(t *testing.T) {
	for _, c := range []struct{ contentType, body, want string }{
		{"application/json; charset=utf-8", `{"message":"m"}`, "m"},
		{"application/json", `{"message":"m","error":"e"}`, "e"},
		{"application/json", `{"mess`, `{"mess`},
		{"text/plain", "404 page not found\n", "404 page not found"},
		{"text/plain", "", "418 teapot"},
		{"application/json", "{}", "418 teapot"},
	} {
		err := api.ReadError(&http.Response{
			StatusCode: 418, Status: "418 teapot", Header: http.Header{"Content-Type": {c.contentType}},
			Body: io.NopCloser(strings.NewReader(c.body)),
		})
		e, ok := errors.AsType[*api.Error](err)
		if !ok || e.Status != 418 || e.Message != c.want {
			t.Errorf("%s %q: got %v, not %q", c.contentType, c.body, err, c.want)
		}
	}
}

func TestCipherErrorRepeatsOnlyNames(t *testing.T) {
	for name, want := range map[string]string{
		"ChaCha20": "algorithm 'ChaCha20' is not supported",
		"":         "algorithm '' is not supported",
		"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=": "algorithm '...' is not supported",
		"XCHACHA20-POLY1305":                           "algorithm 'XCHACHA20-POLY1305' is not supported",
		"AES128":                                       "algorithm 'AES128' is not supported",
		"AAECAwQFBgcICQoLDA0ODw==":                     "algorithm '...' is not supported",
		"AES'<script>":                                 "algorithm '...' is not supported",
	} {
		if got := api.CipherError(name); got.Message != want || got.Status != 406 {
			t.Errorf("%q: %d %q", name, got.Status, got.Message)
		}
	}
}
