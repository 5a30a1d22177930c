package vault_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
	"github.com/keygate/keygate/vault"
	"github.com/keygate/keygate/vault/vaultapi"
	"github.com/keygate/keygate/vault/vaulttest"
)

func TestRootOnTheFake(t *testing.T) {
	f := vaulttest.NewFake(t)
	roottest.Run(t, func(t *testing.T) kms.Root { return initialised(t, tokenConfig(t, f.Server, f.Root)) })
}

// The whole suite runs with the rights that the documentation gives a gateway,
// and its root is made with those that it gives to "keygate root init".
func TestRootOnVaultWithTheDocumentedRights(t *testing.T) {
	core := vaulttest.Real(t)
	core.Policy(t, "keygate-init", documented(t, "init"))
	core.Policy(t, "keygate", documented(t, "gateway"))
	if _, err := vault.Init(t.Context(), tokenConfig(t, core.Server, core.Token(t, time.Hour, "keygate-init"))); err != nil {
		t.Fatal(err)
	}
	roleID, secretID := core.AppRole(t, "keygate", time.Hour, time.Hour, "keygate")
	roottest.Run(t, func(t *testing.T) kms.Root { return open(t, appRoleConfig(t, core.Server, roleID, secretID)) })
}

func documented(t *testing.T, mark string) string {
	t.Helper()
	return vaulttest.Documented(t, "../docs/root-vault.md", mark)
}

func serverConfig(s *vaulttest.Server, auth vaultapi.Auth) vault.Config {
	return vault.Config{Config: vaultapi.Config{Address: s.Address, TLS: vaultapi.TLS{CA: s.CAFile}, Auth: auth}}
}

func tokenConfig(t *testing.T, s *vaulttest.Server, token string) vault.Config {
	t.Helper()
	return serverConfig(s, vaultapi.Auth{TokenFile: vaulttest.TokenFile(t, token)})
}

func appRoleConfig(t *testing.T, s *vaulttest.Server, roleID, secretID string) vault.Config {
	t.Helper()
	return serverConfig(s, vaultapi.Auth{AppRole: &vaultapi.AppRole{RoleID: roleID, SecretIDFile: vaulttest.TokenFile(t, secretID)}})
}

// initialised makes the keys of a root and opens it.
func initialised(t *testing.T, cfg vault.Config) *vault.Root {
	t.Helper()
	if _, err := vault.Init(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return open(t, cfg)
}

func open(t *testing.T, cfg vault.Config) *vault.Root {
	t.Helper()
	r, err := vault.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}
