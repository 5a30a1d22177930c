package main

import (
	"crypto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/policy"
)

// clearEnv unsets every variable that the client commands read.
func clearEnv(t *testing.T) {
	for _, names := range [][]string{envServer, envAPIKey, envClientKey, envClientCert, envCACert} {
		for _, name := range names {
			t.Setenv(name, "")
		}
	}
}

func TestEndpoints(t *testing.T) {
	clearEnv(t)
	check := func(c connection, want ...string) {
		t.Helper()
		if got := c.endpoints(); !slices.Equal(got, want) {
			t.Errorf("endpoints %v, want %v", got, want)
		}
	}
	check(connection{}, "127.0.0.1:7373")
	// From the last in order to the first: each wins over those before.
	for i := len(envServer) - 1; i >= 0; i-- {
		t.Setenv(envServer[i], envServer[i])
		check(connection{}, envServer[i])
	}
	t.Setenv(envServer[0], "a:1,b:2")
	check(connection{}, "a:1", "b:2")
	check(connection{server: []string{"c:3"}}, "c:3")
	if envServer[0] != "KEYGATE_SERVER" {
		t.Error("our own variable is not the first")
	}
}

// calledAs returns the identity that a client of these settings shows.
func calledAs(t *testing.T, c connection) policy.Identity {
	t.Helper()
	var cfg client.Config
	if err := c.identify(&cfg); err != nil {
		t.Fatal(err)
	}
	pair := &cfg.Certificate
	if cfg.GetCertificate != nil {
		var err error
		if pair, err = cfg.GetCertificate(); err != nil {
			t.Fatal(err)
		}
	}
	id, err := identityOf(pair.PrivateKey.(crypto.Signer).Public())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestIdentityToCallAs(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	ids := map[string]policy.Identity{}
	for _, name := range []string{"flag", "env"} {
		n := newIdentity{keyFile: file(name + ".key"), certFile: file(name + ".crt")}
		r, err := n.run(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = r.Identity
	}
	apiKey, err := client.GenerateAPIKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file("api"), []byte(apiKey.Reveal()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	clearEnv(t)
	var cfg client.Config
	if err := (&connection{}).identify(&cfg); err == nil || !strings.Contains(err.Error(), "--client-cert") {
		t.Errorf("without an identity: error %v, want one that says what to give", err)
	}
	t.Setenv("KES_CLIENT_CERT", file("env.crt"))
	t.Setenv("KES_CLIENT_KEY", file("env.key"))
	if id := calledAs(t, connection{}); id != ids["env"] {
		t.Errorf("called as %s, want the certificate of KES's variables", id)
	}
	t.Setenv("MINIO_KES_API_KEY", apiKey.Reveal())
	if id := calledAs(t, connection{}); id != apiKey.Identity() {
		t.Errorf("called as %s, want the API key", id)
	}
	if id := calledAs(t, connection{clientCert: file("flag.crt"), clientKey: file("flag.key")}); id != ids["flag"] {
		t.Errorf("called as %s, want the certificate of the flags", id)
	}
	if id := calledAs(t, connection{apiKeyFile: file("api")}); id != apiKey.Identity() {
		t.Errorf("called as %s, want the API key of the file", id)
	}
	crossed := connection{clientCert: file("flag.crt"), clientKey: file("env.key")}
	if err := crossed.identify(&cfg); err == nil || !strings.Contains(err.Error(), "does not belong") {
		t.Errorf("a key of another certificate: error %v", err)
	}
}
