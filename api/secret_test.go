package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keygate/keygate/api"
)

// types is every type of the package. A test compares it with the source.
var types = []any{
	api.AttestResponse{}, api.AuditEvent{}, api.AuditRequest{}, api.AuditResponse{}, api.BatchDecryptItem{}, api.BatchGenerateRequest{},
	api.CreateKeyRequest{}, api.DecryptRequest{}, api.DecryptResponse{}, api.DescribeIdentityResponse{}, api.DescribeKeyResponse{},
	api.DescribePolicyResponse{}, api.EncryptRequest{}, api.EncryptResponse{}, api.Error{}, api.ErrorEvent{}, api.GenerateKeyRequest{},
	api.GenerateKeyResponse{}, api.HMACRequest{}, api.HMACResponse{}, api.ImportKeyRequest{}, api.ListIdentitiesResponse{},
	api.ListKeysResponse{}, api.ListPoliciesResponse{}, api.ReadPolicyResponse{}, api.Route{}, api.Rule{}, api.Secret{},
	api.SelfDescribeResponse{}, api.SetModeRequest{}, api.StatusResponse{}, api.VersionResponse{},
}

func TestAU06_EveryTypeOfTheAPIKeepsItsSecrets(t *testing.T) {
	canary := []byte("canary 5f3e9a7c41 of 32 bytes...")
	var tested, secrets []string
	for _, typ := range types {
		v := reflect.New(reflect.TypeOf(typ))
		name := v.Elem().Type().Name()
		tested = append(tested, name)
		if !fill(v.Elem(), canary) {
			continue
		}
		secrets = append(secrets, name)
		t.Run("AU-06 "+name, func(t *testing.T) {
			for how, text := range renderings(v.Interface(), v.Elem().Interface()) {
				for form, b := range forms(canary) {
					if strings.Contains(text, b) {
						t.Errorf("%s shows it %s: %s", how, form, text)
					}
				}
				if !strings.Contains(text, "[redacted]") {
					t.Errorf("%s does not say that something is left out: %s", how, text)
				}
			}
			// The wire has it all the same.
			b, err := json.Marshal(v.Interface())
			if err != nil || !strings.Contains(string(b), base64.StdEncoding.EncodeToString(canary)) {
				t.Errorf("package json: %s, %v", b, err)
			}
			back := reflect.New(reflect.TypeOf(typ))
			if err := json.Unmarshal(b, back.Interface()); err != nil || !reflect.DeepEqual(back.Interface(), v.Interface()) {
				t.Errorf("%s is read back as something else: %v", b, err)
			}
		})
	}
	want := []string{"BatchDecryptItem", "DecryptResponse", "EncryptRequest", "GenerateKeyResponse", "HMACRequest", "HMACResponse", "ImportKeyRequest", "Secret"}
	if !slices.Equal(secrets, want) {
		t.Errorf("secrets are in %v, not in %v", secrets, want)
	}
	if all := exportedTypes(t); !slices.Equal(tested, all) {
		t.Errorf("the test knows the types %v, the package has %v", tested, all)
	}
}

// Bytes that are no Secret are those that need not be.
func TestAU06_NoSecretIsPlainBytes(t *testing.T) {
	public := []string{"Ciphertext", "Context", "Contexts"}
	for _, v := range types {
		typ := reflect.TypeOf(v)
		if typ.Kind() != reflect.Struct {
			continue
		}
		for f := range typ.Fields() {
			elem := f.Type
			if elem == reflect.TypeFor[[][]byte]() {
				elem = elem.Elem()
			}
			if elem == reflect.TypeFor[[]byte]() && !slices.Contains(public, f.Name) {
				t.Errorf("%s.%s is plain bytes", typ.Name(), f.Name)
			}
		}
	}
}

// fill sets all secrets in v. It reports whether there are any.
func fill(v reflect.Value, secret []byte) (found bool) {
	switch {
	case v.Type() == reflect.TypeFor[api.Secret]():
		v.SetBytes(bytes.Clone(secret))
		return true
	case v.Kind() == reflect.Struct && v.Type().PkgPath() == reflect.TypeFor[api.Secret]().PkgPath():
		for i := range v.NumField() {
			found = fill(v.Field(i), secret) || found
		}
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		found = fill(v.Index(0), secret)
	}
	return found
}

// renderings returns values in all the ways that they can get into a log.
func renderings(values ...any) map[string]string {
	all := make(map[string]string)
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "% x"} {
			all[fmt.Sprintf("%s of %T", verb, v)] = fmt.Sprintf(verb, v)
		}
		all[fmt.Sprintf("an error of %T", v)] = fmt.Errorf("x: %v", v).Error()
		for name, handler := range map[string]func(io.Writer) slog.Handler{
			"JSON": func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) },
			"text": func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) },
		} {
			var log bytes.Buffer
			slog.New(handler(&log)).With("a", v).Info("m", "b", v, slog.Group("g", "c", v))
			all[fmt.Sprintf("slog's %s of %T", name, v)] = log.String()
		}
	}
	return all
}

// forms returns how bytes could be written.
func forms(b []byte) map[string]string {
	return map[string]string{
		"as it is": string(b), "in hex": fmt.Sprintf("%x", b), "in HEX": fmt.Sprintf("%X", b), "in spaced hex": fmt.Sprintf("% x", b),
		"in base64": base64.RawStdEncoding.EncodeToString(b), "as numbers": strings.Trim(fmt.Sprint(b), "[]"),
		"as octal numbers": strings.Trim(fmt.Sprintf("%o", b), "[]"), "as Go": strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte"), "{}"),
	}
}

// exportedTypes returns the types that the package's source exports, in order.
func exportedTypes(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.IsExported() {
				names = append(names, spec.Name.Name)
			}
			return true
		})
	}
	slices.Sort(names)
	return names
}
