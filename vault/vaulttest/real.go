package vaulttest

import (
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// BinaryEnv is the environment variable that names the binary of vault/vaultdev,
// as "scripts/vault.sh build" prints it.
const BinaryEnv = "KEYGATE_TEST_VAULT"

// A Core is a real Vault core, with transit mounted at transit/, KV version 2 at
// secret/, and the auth methods AppRole and TLS certificate where they are by
// default.
type Core struct {
	*Server
	unseal []byte
}

// Real starts a core of its own for a test, which ends with it. Without the
// binary the test is skipped: it takes minutes to build, so that "make test"
// uses one that is there and "make test-vault" makes it.
func Real(tb testing.TB) *Core {
	tb.Helper()
	binary := os.Getenv(BinaryEnv)
	if binary == "" {
		tb.Skipf("the real Vault core is not there: run make test-vault, or set %s to what scripts/vault.sh build prints", BinaryEnv)
	}
	cmd := exec.Command(binary)
	cmd.Stderr = os.Stderr
	// FIPS 140-3 mode is for keygate: the core uses what is not allowed in it.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GODEBUG=") })
	input, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	tb.Cleanup(func() { end(cmd, input) })
	var ready struct{ Address, Token, Unseal, CA string }
	if err := json.NewDecoder(output).Decode(&ready); err != nil {
		tb.Fatal("vaulttest: the core did not start: ", err)
	}
	share, err := hex.DecodeString(ready.Unseal)
	if err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	c := &Core{Server: newServer(tb, ready.Address, ready.CA, ready.Token), unseal: share}
	c.prepare(tb)
	return c
}

// end has the core end itself, as it does with its standard input.
func end(cmd *exec.Cmd, input io.Closer) {
	input.Close()
	kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
	defer kill.Stop()
	cmd.Wait()
}

func (c *Core) prepare(tb testing.TB) {
	tb.Helper()
	c.Do(tb, "POST", "sys/mounts/transit", map[string]any{"type": "transit"})
	c.Do(tb, "POST", "sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	c.Do(tb, "POST", "sys/auth/approle", map[string]any{"type": "approle"})
	c.Do(tb, "POST", "sys/auth/cert", map[string]any{"type": "cert"})
	// KV version 2 answers 400 until it has upgraded its storage.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if status, _ := c.Try(tb, "GET", "secret/config", nil); status == 200 || time.Now().After(deadline) {
			return
		}
	}
}

// Seal seals the core; Unseal undoes it.
func (c *Core) Seal(tb testing.TB) { c.Do(tb, "PUT", "sys/seal", nil) }

// Unseal makes a sealed core usable again.
func (c *Core) Unseal(tb testing.TB) {
	tb.Helper()
	c.Do(tb, "PUT", "sys/unseal", map[string]any{"key": hex.EncodeToString(c.unseal)})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if status, _ := c.Try(tb, "GET", "sys/health", nil); status == 200 || time.Now().After(deadline) {
			return
		}
	}
}

// Policy writes a policy in HCL.
func (c *Core) Policy(tb testing.TB, name, hcl string) {
	tb.Helper()
	c.Do(tb, "PUT", "sys/policies/acl/"+name, map[string]any{"policy": hcl})
}

// Token makes a token with the policies.
func (c *Core) Token(tb testing.TB, ttl time.Duration, policies ...string) string {
	tb.Helper()
	answer := c.Do(tb, "POST", "auth/token/create", map[string]any{"policies": policies, "ttl": ttl.String()})
	return answer["auth"].(map[string]any)["client_token"].(string)
}

// AppRole makes a role whose tokens have the policies, live ttl, and longest
// with renewals; and returns what a login needs.
func (c *Core) AppRole(tb testing.TB, name string, ttl, longest time.Duration, policies ...string) (roleID, secretID string) {
	tb.Helper()
	c.Do(tb, "POST", "auth/approle/role/"+name, map[string]any{"token_ttl": ttl.String(), "token_max_ttl": longest.String(), "token_policies": policies})
	roleID = Data(c.Do(tb, "GET", "auth/approle/role/"+name+"/role-id", nil))["role_id"].(string)
	secretID = Data(c.Do(tb, "POST", "auth/approle/role/"+name+"/secret-id", struct{}{}))["secret_id"].(string)
	return roleID, secretID
}
