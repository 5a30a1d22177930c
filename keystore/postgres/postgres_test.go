package postgres_test

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/postgres"
	"github.com/keygate/keygate/keystore/remote"
	"github.com/keygate/keygate/keystore/storetest"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/keystore/storetest/servers"
)

const cluster = "000102030405060708090a0b0c0d0e0f"

func TestMain(m *testing.M) {
	storetest.Node(func(config []byte) (keystore.Store, error) {
		var cfg postgres.Config
		if err := json.Unmarshal(config, &cfg); err != nil {
			return nil, err
		}
		return postgres.Open(cfg, cluster)
	})
	servers.Main(m)
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	cfg := newStore(t, servers.SharedPostgres(t))
	storetest.RunProcesses(t, open(t, cfg), cfg, servers.Long(100, 1000))
}

func TestStore(t *testing.T) {
	p := servers.SharedPostgres(t)
	var last postgres.Config
	storetest.Run(t, storetest.Harness{
		Creates:   servers.Long(100, 1000),
		Cancelled: 10_000,
		Fresh: func(t *testing.T) func() keystore.Store {
			cfg := newStore(t, p)
			last = cfg
			return func() keystore.Store { return open(t, cfg) }
		},
		Strange: func(t *testing.T) map[string]keystore.Store { return strange(t, p) },
		Network: func(t *testing.T, timeout time.Duration) (keystore.Store, []*netfault.Proxy) {
			cfg, proxy := proxied(t, last)
			cfg.Timeout = timeout
			return open(t, cfg), []*netfault.Proxy{proxy}
		},
	})
}

// strange are stores that are not this cluster's.
func strange(t *testing.T, p servers.Postgres) map[string]keystore.Store {
	other := newStore(t, p)
	if err := open(t, other).Create(t.Context(), "app", []byte("x")); err != nil {
		t.Fatal(err)
	}
	other.Timeout = time.Second
	others, err := postgres.Open(other, "ffffffffffffffffffffffffffffffff")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { others.Close() })
	vary := func(change func(*postgres.Config)) keystore.Store {
		cfg := other
		change(&cfg)
		return open(t, cfg)
	}
	lost := newStore(t, p)
	admin(t, p, "DELETE FROM "+lost.Schema+".store")
	forbidden := newStore(t, p)
	admin(t, p, "REVOKE ALL ON ALL TABLES IN SCHEMA "+forbidden.Schema+" FROM gateway")
	stripped := newStore(t, p)
	admin(t, p, "DROP TABLE "+stripped.Schema+".records")
	wrong := t.TempDir() + "/password"
	if err := os.WriteFile(wrong, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	cut, proxy := proxied(t, other)
	silent := open(t, cut)
	proxy.Set(netfault.Silent)
	return map[string]keystore.Store{
		"another cluster's":                    others,
		"a schema that is not there":           vary(func(cfg *postgres.Config) { cfg.Schema = "nothing" }),
		"another database":                     vary(func(cfg *postgres.Config) { cfg.Database = "empty" }),
		"no such database":                     vary(func(cfg *postgres.Config) { cfg.Database = "nothing" }),
		"a store that lost its identity":       open(t, lost),
		"rights that were taken away":          open(t, forbidden),
		"a table that was dropped":             open(t, stripped),
		"a wrong password":                     vary(func(cfg *postgres.Config) { cfg.PasswordFile = wrong }),
		"a server of an authority not trusted": vary(func(cfg *postgres.Config) { cfg.TLS.CA = "" }),
		"a server of another name":             vary(func(cfg *postgres.Config) { cfg.TLS.ServerName = "db.example.org" }),
		"nobody listens":                       vary(func(cfg *postgres.Config) { cfg.Hosts = []string{"127.0.0.1:1"} }),
		"a network that swallows all":          silent,
	}
}

// config returns the configuration of a schema that no other test has.
func config(p servers.Postgres) postgres.Config {
	return postgres.Config{
		Hosts:        []string{p.Host},
		Schema:       "test_" + strings.ToLower(rand.Text()),
		User:         "gateway",
		PasswordFile: p.Password("gateway"),
		Owner:        postgres.Owner{User: "owner", PasswordFile: p.Password("owner")},
		TLS:          remote.TLS{CA: p.File("ca.crt")},
	}
}

// newStore makes a store.
func newStore(t *testing.T, p servers.Postgres) postgres.Config {
	t.Helper()
	cfg := config(p)
	if err := postgres.Init(t.Context(), cfg, cluster); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// open opens a store until the test ends.
func open(t *testing.T, cfg postgres.Config) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(cfg, cluster)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// proxied returns cfg by way of a proxy.
func proxied(t *testing.T, cfg postgres.Config) (postgres.Config, *netfault.Proxy) {
	t.Helper()
	p := netfault.New(t, cfg.Hosts[0])
	cfg.Hosts = []string{p.Addr()}
	return cfg, p
}

// administrator connects as the superuser.
func administrator(t *testing.T, p servers.Postgres) *pgx.Conn {
	t.Helper()
	password, err := os.ReadFile(p.Password("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), "postgres://postgres:"+string(password)+"@"+p.Host+"/keygate?sslmode=verify-full&sslrootcert="+p.File("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

// admin runs statements as the superuser.
func admin(t *testing.T, p servers.Postgres, sql ...string) {
	t.Helper()
	conn := administrator(t, p)
	for _, text := range sql {
		if _, err := conn.Exec(t.Context(), text); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	}
}
