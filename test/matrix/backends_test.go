package matrix_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate/keygate/awsapi/awstest"
	"github.com/keygate/keygate/awskms"
	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/softhsm"
	"github.com/keygate/keygate/vault/vaulttest"
)

// A section is what a configuration says of a root or a store that no other
// gateway has, and what goes with it. newNode puts a time in the place of TIMEOUT.
type section struct {
	yaml    string
	env     []string
	init    []string // the command that makes it, if that is not "store init"
	before  []string // a command before that one
	secrets []string
	imports bool // a root: keys can be imported
	forgets bool // a store: its records end with the process
}

// A backend makes sections of one kind. Where its server is missing it skips tb.
type backend struct {
	name string
	make func(tb testing.TB) section
}

// unique is a name that no other gateway has, of lower-case letters and digits.
func unique() string { return strings.ToLower(rand.Text()) }

// text returns what a file holds, without the space around it.
func text(tb testing.TB, path string) string {
	tb.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return string(bytes.TrimSpace(b))
}

func roots(t *testing.T, v *vaults) []backend {
	return []backend{
		{"SoftHSM", softHSM},
		{"local", local},
		{"Vault transit, " + v.kind, func(tb testing.TB) section { return transit(tb, v.server(tb).Address, v.server(tb)) }},
		{"AWS KMS, one key, moto", func(tb testing.TB) section { return awsKMS(tb, awstest.Endpoint(tb, awstest.KMS)) }},
		{"AWS KMS, per key, local-kms", func(tb testing.TB) section { return perKey(t, tb) }},
	}
}

func stores(v *vaults) []backend {
	return []backend{
		{"fs", directory},
		{"memory", func(testing.TB) section { return section{yaml: "memory: {}", forgets: true} }},
		{"etcd", func(tb testing.TB) section { return etcd(servers.SharedEtcd(tb)) }},
		{"PostgreSQL", func(tb testing.TB) section { return postgres(tb, servers.SharedPostgres(tb)) }},
		{"Vault KV, " + v.kind, func(tb testing.TB) section { return kv(tb, v.server(tb).Address, v.server(tb)) }},
		{"Secrets Manager, moto", func(tb testing.TB) section { return secretsManager(tb, awstest.Endpoint(tb, awstest.Secrets)) }},
	}
}

// vaults is the one Vault of a test: a real core where one is built.
type vaults struct {
	kind string
	t    *testing.T
	once sync.Once
	made *vaulttest.Server
}

func newVaults(t *testing.T) *vaults {
	v := &vaults{kind: "fake", t: t}
	if os.Getenv(vaulttest.BinaryEnv) != "" {
		v.kind = "real core"
	}
	return v
}

func (v *vaults) server(tb testing.TB) *vaulttest.Server {
	tb.Helper()
	v.once.Do(func() {
		if v.kind == "fake" {
			v.made = vaulttest.NewFake(v.t).Server
		} else {
			v.made = vaulttest.Real(v.t).Server
		}
	})
	if v.made == nil {
		tb.Fatal("there is no Vault")
	}
	return v.made
}

func softHSM(tb testing.TB) section {
	tb.Helper()
	f := softhsm.Token(tb)
	return pkcs11(f, f.Module)
}

func pkcs11(f softhsm.Fixture, module string) section {
	return section{
		yaml: fmt.Sprintf("pkcs11: {module: %q, token: %s, pin: {file: %q}, timeout: TIMEOUT}", module, f.Label, f.PINFile),
		env:  []string{softhsm.ConfEnv + "=" + f.Conf}, init: []string{"hsm", "init"}, secrets: []string{f.PIN}, imports: true,
	}
}

func local(tb testing.TB) section {
	return section{yaml: fmt.Sprintf("local: {file: %q}", filepath.Join(tb.TempDir(), "root.key")), init: []string{"root", "init"}, imports: true}
}

func directory(tb testing.TB) section {
	return section{yaml: fmt.Sprintf("fs: {path: %q}", filepath.Join(tb.TempDir(), "keys"))}
}

// vaultAt is what the sections of both of Vault's drivers begin with.
func vaultAt(tb testing.TB, address string, s *vaulttest.Server) string {
	tb.Helper()
	return fmt.Sprintf("address: %q, timeout: TIMEOUT, tls: {ca: %q}, auth: {token_file: %q}", address, s.CAFile, vaulttest.TokenFile(tb, s.Root))
}

func transit(tb testing.TB, address string, s *vaulttest.Server) section {
	tb.Helper()
	return section{
		yaml: fmt.Sprintf("vault: {prefix: t%s-, %s}", unique(), vaultAt(tb, address, s)),
		init: []string{"root", "init"}, secrets: []string{s.Root}, imports: true,
	}
}

func kv(tb testing.TB, address string, s *vaulttest.Server) section {
	tb.Helper()
	return section{yaml: fmt.Sprintf("vault: {path: %s, %s}", unique(), vaultAt(tb, address, s)), secrets: []string{s.Root}}
}

func etcd(e servers.Etcd) section {
	return section{yaml: fmt.Sprintf("etcd: {endpoints: [%s], prefix: /%s/, timeout: TIMEOUT, tls: {ca: %q, cert: %q, key: %q}}",
		strings.Join(e.Endpoints, ", "), unique(), e.File("ca.crt"), e.File("client.crt"), e.File("client.key"))}
}

func postgres(tb testing.TB, p servers.Postgres) section {
	tb.Helper()
	return section{
		yaml: fmt.Sprintf("postgres: {hosts: [%q], schema: k%s, user: gateway, password_file: %q, timeout: TIMEOUT, owner: {user: owner, password_file: %q}, tls: {ca: %q}}",
			p.Host, unique(), p.Password("gateway"), p.Password("owner"), p.File("ca.crt")),
		secrets: []string{text(tb, p.Password("gateway")), text(tb, p.Password("owner"))},
	}
}

// awsSecret is that of awstest.Credentials.
const awsSecret = "test-only-and-as-long-as-those-of-AWS-are"

// awsAt is what the sections of both of AWS's drivers begin with.
func awsAt(tb testing.TB, endpoint string) string {
	tb.Helper()
	if endpoint == "" {
		tb.Skip("the matrix makes too many keys for AWS itself")
	}
	return fmt.Sprintf("region: %s, endpoint: %q, credentials_file: %q, timeout: TIMEOUT", awstest.Region, endpoint, awstest.Credentials(tb, endpoint))
}

func awsKMS(tb testing.TB, endpoint string) section {
	tb.Helper()
	name := unique()
	return section{
		yaml: fmt.Sprintf("awskms: {%s, key: alias/%s, record_key: alias/%s-record}", awsAt(tb, endpoint), name, name),
		init: []string{"root", "init"}, secrets: []string{awsSecret},
	}
}

// perKey is a KMS key for each named key, at local-kms. That has no HMAC keys: the
// record key is made at moto, and used there, by way of a proxy.
func perKey(t *testing.T, tb testing.TB) section {
	tb.Helper()
	other := awstest.Endpoint(tb, awstest.KMS)
	p := awstest.NewProxy(tb, awstest.Endpoint(tb, awstest.LocalKMS))
	p.Route(tb, "GenerateMac", other)
	name := "alias/" + unique()
	cfg := awskms.Config{Endpoint: other, Region: awstest.Region, CredentialsFile: awstest.Credentials(tb, other), Key: name, RecordKey: name + "-record", Timeout: 10 * time.Second}
	if _, err := awskms.Init(t.Context(), cfg, quiet()); err != nil {
		tb.Fatal(err)
	}
	cfg.Endpoint = p.URL
	made, err := awskms.Init(t.Context(), cfg, quiet())
	if e, there := errors.AsType[*awskms.Error](err); !there || e.Operation != "CreateKey" || made.RecordKey {
		tb.Fatalf("init at a KMS without HMAC keys: %+v, %v", made, err)
	}
	return section{
		yaml: fmt.Sprintf("awskms: {%s, per_key: true, key: %s, record_key: %s-record, alias_prefix: %s/}", awsAt(tb, p.URL), name, name, name),
		env:  nil, secrets: []string{awsSecret}, imports: true,
	}
}

func secretsManager(tb testing.TB, endpoint string) section {
	tb.Helper()
	return section{yaml: fmt.Sprintf("secretsmanager: {%s, prefix: %s/}", awsAt(tb, endpoint), unique()), secrets: []string{awsSecret}}
}
