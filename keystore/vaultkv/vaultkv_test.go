package vaultkv_test

import (
	"crypto/rand"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/storetest"
	"github.com/keygate/keygate/keystore/vaultkv"
	"github.com/keygate/keygate/vault/vaultapi"
	"github.com/keygate/keygate/vault/vaulttest"
)

const cluster = "000102030405060708090a0b0c0d0e0f"

func TestStoreOnTheFake(t *testing.T) {
	f := vaulttest.NewFake(t)
	storetest.Run(t, storetest.Harness{Fresh: func(t *testing.T) func() keystore.Store {
		cfg := tokenConfig(t, f.Server, f.Root, "clusters/"+rand.Text())
		initialise(t, cfg)
		return func() keystore.Store { return open(t, cfg) }
	}})
}

// The whole suite runs with the rights that the documentation gives a gateway.
func TestStoreOnVaultWithTheDocumentedRights(t *testing.T) {
	core := vaulttest.Real(t)
	storetest.Run(t, storetest.Harness{Fresh: func(t *testing.T) func() keystore.Store {
		path := "keygate-" + rand.Text()
		core.Policy(t, "init-"+path, documented(t, "init", path))
		core.Policy(t, path, documented(t, "gateway", path))
		initialise(t, tokenConfig(t, core.Server, core.Token(t, time.Hour, "init-"+path), path))
		cfg := tokenConfig(t, core.Server, core.Token(t, time.Hour, path), path)
		return func() keystore.Store { return open(t, cfg) }
	}})
}

// documented returns a policy of docs/keystore-vault.md, for another path.
func documented(t *testing.T, mark, path string) string {
	t.Helper()
	return strings.ReplaceAll(vaulttest.Documented(t, "../../docs/keystore-vault.md", mark), "/keygate/", "/"+path+"/")
}

func tokenConfig(t *testing.T, s *vaulttest.Server, token, path string) vaultkv.Config {
	t.Helper()
	return vaultkv.Config{Path: path, Config: vaultapi.Config{Address: s.Address, TLS: vaultapi.TLS{CA: s.CAFile}, Auth: vaultapi.Auth{TokenFile: vaulttest.TokenFile(t, token)}}}
}

func initialise(t *testing.T, cfg vaultkv.Config) {
	t.Helper()
	if err := vaultkv.Init(t.Context(), cfg, cluster); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, cfg vaultkv.Config) *vaultkv.Store {
	t.Helper()
	s, err := vaultkv.Open(cfg, cluster, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
