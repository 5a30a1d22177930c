package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keygate/keygate/vault/vaulttest"
)

// TestVault runs a gateway whose master keys are in transit and whose records are
// in KV, on the fake and, where it is built, on a real core.
func TestVault(t *testing.T) {
	t.Run("fake", func(t *testing.T) { runVaultScript(t, vaulttest.NewFake(t).Server) })
	t.Run("real", func(t *testing.T) { runVaultScript(t, vaulttest.Real(t).Server) })
}

func runVaultScript(t *testing.T, s *vaulttest.Server) {
	o := &operator{}
	setUp := func(env *testscript.Env) error {
		ca, err := os.ReadFile(s.CAFile)
		if err != nil {
			return err
		}
		env.Vars = append(env.Vars, "VAULT="+s.Address, "VAULTTOKEN="+s.Root)
		for name, text := range map[string]string{"vault-ca.pem": string(ca), "vault-token": s.Root} {
			if err := writeFile(env.WorkDir+"/"+name, []byte(text), 0o600, false); err != nil {
				return err
			}
		}
		return o.setUp(env)
	}
	testscript.Run(t, testscript.Params{Files: []string{"testdata/vault.txt"}, Setup: setUp, Cmds: scriptCommands{
		"envsubst": envsubst, "mode": checkMode,
		"server": o.start, "signal": o.signal, "stopped": o.stopped, "logged": o.logged, "hidden": o.hidden,
	}})
}
