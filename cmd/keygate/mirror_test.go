package main

import (
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/local"
	"github.com/keygate/keygate/mirror"
)

// openMirror opens a mirror of a token and a file as the gateway does.
func openMirror(t *testing.T) (*mirror.Root, *file) {
	t.Helper()
	token := hsmtest.Config(t)
	m := &mirrorSection{Config: mirror.Config{RecordKeyFile: filepath.Join(t.TempDir(), "record-key")},
		First: singleRoot{PKCS11: &token}, Second: singleRoot{Local: &local.Config{File: filepath.Join(t.TempDir(), "root.key")}}}
	c := &configuration{file: file{Root: rootSection{Mirror: m}}}
	check(t, initMirror(t.Context(), c))
	root, err := mirrorRoot.open(t.Context(), c, slog.New(slog.DiscardHandler))
	check(t, err)
	t.Cleanup(func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	return root.(*mirror.Root), &c.file
}

// mirrorMetrics is the text of the metrics of a mirror.
func mirrorMetrics(t *testing.T) []byte {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	root, f := openMirror(t)
	for _, c := range rootFigures(root, f) {
		check(t, registry.Register(c))
	}
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	return answer.Body.Bytes()
}

func TestHS17_MetricsOfAMirrorAndItsToken(t *testing.T) {
	text := string(mirrorMetrics(t))
	for _, want := range []string{
		`keygate_mirror_root_up{kind="pkcs11",root="first"} 1`, `keygate_mirror_root_up{kind="local",root="second"} 1`,
		`keygate_mirror_root_missing_total{kind="local",root="second"} 0`, "keygate_mirror_disagreements_total 0",
		`keygate_hsm_token_up{root="first",token="`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
}

// A command for a token finds the one that a mirror has, and does not choose of two.
func TestTokenOfAMirror(t *testing.T) {
	one, two := &hsm.Config{Token: "one"}, &hsm.Config{Token: "two"}
	for _, c := range []struct {
		root rootSection
		want string
	}{
		{rootSection{singleRoot: singleRoot{PKCS11: one}}, "one"},
		{rootSection{Mirror: &mirrorSection{First: singleRoot{PKCS11: one}}}, "one"},
		{rootSection{Mirror: &mirrorSection{Second: singleRoot{PKCS11: two}}}, "two"},
		{rootSection{Mirror: &mirrorSection{First: singleRoot{PKCS11: one}, Second: singleRoot{PKCS11: two}}}, ""},
		{rootSection{}, ""},
	} {
		got, err := (&configuration{file: file{Root: c.root}}).token()
		if got.Token != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%+v: %q, %v", c.root, got.Token, err)
		}
	}
}
