package matrix_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate/keygate/awsapi/awstest"
	"github.com/keygate/keygate/awskms"
	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	rootinfile "github.com/keygate/keygate/local"
	"github.com/keygate/keygate/vault"
	"github.com/keygate/keygate/vault/vaultapi"
	"github.com/keygate/keygate/vault/vaulttest"
)

// A cluster is a root for each node, all of one root of trust.
type cluster struct {
	roots []kms.Root
	// own returns how many calls the root of trust itself has counted, and what it
	// calls them. Nil: it counts none.
	own func() (int, string)
}

// newCluster opens a root for each node, until the test ends.
func newCluster[R kms.Root](t *testing.T, open func() (R, error)) (c cluster) {
	t.Helper()
	for range nodes {
		r, err := open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		c.roots = append(c.roots, r)
	}
	return c
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func softHSMCluster(t *testing.T) (c cluster) {
	cfg := hsmtest.Config(t)
	c = newCluster(t, func() (*hsm.Root, error) { return hsm.Open(t.Context(), cfg, quiet()) })
	c.own = func() (n int, what string) {
		for _, r := range c.roots {
			n += int(r.(*hsm.Root).Stats().Calls)
		}
		return n, "of package hsm"
	}
	return c
}

func localCluster(t *testing.T) cluster {
	cfg := rootinfile.Config{File: filepath.Join(t.TempDir(), "root.key")}
	if _, err := rootinfile.Init(cfg); err != nil {
		t.Fatal(err)
	}
	return newCluster(t, func() (*rootinfile.Root, error) { return rootinfile.Open(cfg) })
}

func transitCluster(t *testing.T, s *vaulttest.Server) cluster {
	t.Helper()
	cfg := vault.Config{Config: vaultapi.Config{Address: s.Address, TLS: vaultapi.TLS{CA: s.CAFile}, Auth: vaultapi.Auth{TokenFile: vaulttest.TokenFile(t, s.Root)}}}
	if _, err := vault.Init(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return newCluster(t, func() (*vault.Root, error) { return vault.Open(t.Context(), cfg, quiet()) })
}

func fakeCluster(t *testing.T) cluster {
	f := vaulttest.NewFake(t)
	c := transitCluster(t, f.Server)
	c.own = func() (int, string) { return f.Count(" transit/"), "requests" }
	return c
}

// realCluster counts in the audit log of Vault.
func realCluster(t *testing.T) cluster {
	core := vaulttest.Real(t)
	log := filepath.Join(t.TempDir(), "audit.log")
	core.Do(t, "PUT", "sys/audit/file", map[string]any{"type": "file", "options": map[string]string{"file_path": log}})
	c := transitCluster(t, core.Server)
	c.own = func() (n int, what string) {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(text) {
			if bytes.Contains(line, []byte(`"type":"request"`)) && bytes.Contains(line, []byte(`"path":"transit/`)) {
				n++
			}
		}
		return n, "in Vault's audit log"
	}
	return c
}

func awsCluster(t *testing.T) cluster {
	p := awstest.NewProxy(t, awstest.Endpoint(t, awstest.KMS))
	name := "alias/" + unique()
	cfg := awskms.Config{Endpoint: p.URL, Region: awstest.Region, CredentialsFile: awstest.Credentials(t, p.URL), Key: name, RecordKey: name + "-record", Timeout: 10 * time.Second}
	if _, err := awskms.Init(t.Context(), cfg, quiet()); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, func() (*awskms.Root, error) { return awskms.Open(t.Context(), cfg, quiet()) })
	total := 0
	c.own = func() (int, string) {
		for _, n := range p.Counts() {
			total += n
		}
		return total, "requests"
	}
	return c
}
