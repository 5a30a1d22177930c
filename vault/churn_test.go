package vault_test

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/vault"
	"github.com/keygate/keygate/vault/vaultapi"
	"github.com/keygate/keygate/vault/vaulttest"
)

// 10,000 requests over 20 lifetimes of a token, none of which fails. With
// KEYGATE_LONG=1, as make test-vault sets it; else 500 over two.
func TestTokenChurn(t *testing.T) {
	const (
		ttl     = 3 * time.Second
		longest = 7 * time.Second // with renewals: so that there are logins too
	)
	lifetimes, requests := 2, 500
	if os.Getenv("KEYGATE_LONG") == "1" {
		lifetimes, requests = 20, 10_000
	}
	core := vaulttest.Real(t)
	core.Policy(t, "keygate", documented(t, "gateway"))
	_, err := vault.Init(t.Context(), tokenConfig(t, core.Server, core.Root))
	check(t, err)
	roleID, secretID := core.AppRole(t, "keygate", ttl, longest, "keygate")
	cfg := appRoleConfig(t, core.Server, roleID, secretID)
	cfg.Timeout = 30 * time.Second // what is tested is the token, not how busy the machine is
	r := open(t, cfg)
	encryption, authentication := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
	before := r.Stats()
	failures := paced(t, requests, time.Duration(lifetimes)*ttl, func(ctx context.Context, i int) error {
		return oneRequest(ctx, r, encryption, authentication, i)
	})
	s := r.Stats()
	t.Logf("%d requests over %d token lifetimes: %d failed; %d logins, %d renewals, %d questions about a refused token, %d retries, %d HTTP requests",
		requests, lifetimes, failures, s.Logins-before.Logins, s.Renewals-before.Renewals, s.Lookups-before.Lookups, s.Retries-before.Retries, s.Requests-before.Requests)
	if failures > 0 {
		t.Errorf("%d requests failed", failures)
	}
	// A token is renewed at half of its life, and replaced near its longest.
	if most := uint64(lifetimes * 2); s.Logins-before.Logins > most || s.Renewals-before.Renewals > 2*most {
		t.Errorf("%d logins and %d renewals in %d lifetimes", s.Logins-before.Logins, s.Renewals-before.Renewals, lifetimes)
	}
	if s.Renewals == before.Renewals || lifetimes > 2 && s.Logins == before.Logins {
		t.Error("the test saw no renewal or no login")
	}
}

// paced calls f n times, spread evenly over a time, on as many goroutines as it
// takes, and returns how many failed.
func paced(t *testing.T, n int, over time.Duration, f func(ctx context.Context, i int) error) int64 {
	t.Helper()
	var failures atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	start := time.Now()
	for i := range n {
		time.Sleep(time.Until(start.Add(over * time.Duration(i) / time.Duration(n))))
		wg.Go(func() {
			if err := f(t.Context(), i); err != nil && failures.Add(1) <= 5 {
				t.Errorf("request %d, after %v: %v", i, time.Since(start).Round(time.Millisecond), err)
			}
		})
	}
	wg.Wait()
	return failures.Load()
}

func oneRequest(ctx context.Context, r *vault.Root, encryption, authentication []byte, i int) error {
	switch i % 3 {
	case 0:
		return r.Random(ctx, make([]byte, 32))
	case 1:
		_, err := r.MAC(ctx, authentication, []byte("message"))
		return err
	}
	_, err := r.Encrypt(ctx, encryption, []byte(rand.Text()), nil)
	return err
}

// A login with the client certificate of the connection.
func TestCertificateLogin(t *testing.T) {
	core := vaulttest.Real(t)
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	pem := vaulttest.ClientCertificate(t, certFile, keyFile)
	core.Policy(t, "keygate", documented(t, "gateway"))
	core.Do(t, "POST", "auth/cert/certs/keygate", map[string]any{"certificate": pem, "token_policies": []string{"keygate"}, "token_ttl": "1h"})
	_, err := vault.Init(t.Context(), tokenConfig(t, core.Server, core.Root))
	check(t, err)
	cfg := serverConfig(core.Server, vaultapi.Auth{Cert: &vaultapi.Cert{Role: "keygate"}})
	cfg.TLS.Cert, cfg.TLS.Key = certFile, keyFile
	r := open(t, cfg)
	check(t, r.Status(t.Context()))
	if s := r.Stats(); s.Logins != 1 || s.LoginFailures != 0 {
		t.Errorf("%+v", s)
	}
	// Another certificate is refused.
	vaulttest.ClientCertificate(t, certFile, keyFile)
	other, err := vault.Open(t.Context(), cfg, nil)
	is(t, "with another certificate", err, kms.ErrDenied)
	if err == nil {
		other.Close()
	}
}
