package etcd_test

import (
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/etcd"
	"github.com/keygate/keygate/keystore/remote"
	"github.com/keygate/keygate/keystore/storetest"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/keystore/storetest/servers"
)

const cluster = "000102030405060708090a0b0c0d0e0f"

func TestMain(m *testing.M) {
	storetest.Node(func(config []byte) (keystore.Store, error) {
		var cfg etcd.Config
		if err := json.Unmarshal(config, &cfg); err != nil {
			return nil, err
		}
		return etcd.Open(cfg, cluster)
	})
	servers.Main(m)
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	cfg := newStore(t, servers.SharedEtcd(t))
	storetest.RunProcesses(t, open(t, cfg), cfg, servers.Long(100, 1000))
}

func TestStore(t *testing.T) {
	e := servers.SharedEtcd(t)
	var last etcd.Config
	storetest.Run(t, storetest.Harness{
		Creates:   servers.Long(100, 1000),
		Cancelled: 10_000,
		Fresh: func(t *testing.T) func() keystore.Store {
			cfg := newStore(t, e)
			last = cfg
			return func() keystore.Store { return open(t, cfg) }
		},
		Strange: func(t *testing.T) map[string]keystore.Store { return strange(t, e) },
		Network: func(t *testing.T, timeout time.Duration) (keystore.Store, []*netfault.Proxy) {
			cfg, proxies := proxied(t, last)
			cfg.Timeout = timeout
			return open(t, cfg), proxies
		},
	})
}

// strange are stores that are not this cluster's.
func strange(t *testing.T, e servers.Etcd) map[string]keystore.Store {
	other := newStore(t, e)
	if err := open(t, other).Create(t.Context(), "app", []byte("x")); err != nil {
		t.Fatal(err)
	}
	others, err := etcd.Open(other, "ffffffffffffffffffffffffffffffff")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { others.Close() })
	untrusted := other
	untrusted.TLS.CA, untrusted.Timeout = "", time.Second
	nobody := other
	nobody.Endpoints, nobody.Timeout = []string{"https://127.0.0.1:1"}, time.Second
	cut, proxies := proxied(t, other)
	cut.Timeout = time.Second
	silent := open(t, cut)
	set(proxies, netfault.Silent)
	wrong := other
	wrong.Prefix = "/nothing-is-here"
	above := other
	above.Prefix = "/" // holds keys, but no identity
	return map[string]keystore.Store{
		"another cluster's":                    others,
		"an empty prefix":                      open(t, wrong),
		"a prefix above":                       open(t, above),
		"a server of an authority not trusted": open(t, untrusted),
		"nobody listens":                       open(t, nobody),
		"a network that swallows all":          silent,
	}
}

// proxied returns cfg by way of a proxy for each member.
func proxied(t *testing.T, cfg etcd.Config) (etcd.Config, []*netfault.Proxy) {
	t.Helper()
	var proxies []*netfault.Proxy
	var endpoints []string
	for _, endpoint := range cfg.Endpoints {
		p := netfault.New(t, strings.TrimPrefix(endpoint, "https://"))
		proxies = append(proxies, p)
		endpoints = append(endpoints, "https://"+p.Addr())
	}
	cfg.Endpoints = endpoints
	return cfg, proxies
}

func set(proxies []*netfault.Proxy, m netfault.Mode) {
	for _, p := range proxies {
		p.Set(m)
	}
}

// config returns the configuration of a prefix that no other test has.
func config(e servers.Etcd) etcd.Config {
	return etcd.Config{
		Endpoints: e.Endpoints,
		Prefix:    "/test-" + rand.Text(),
		TLS:       remote.TLS{CA: e.File("ca.crt"), Cert: e.File("client.crt"), Key: e.File("client.key")},
	}
}

// newStore makes a store.
func newStore(t *testing.T, e servers.Etcd) etcd.Config {
	t.Helper()
	cfg := config(e)
	if err := etcd.Init(t.Context(), cfg, cluster); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// open opens a store until the test ends.
func open(t *testing.T, cfg etcd.Config) *etcd.Store {
	t.Helper()
	s, err := etcd.Open(cfg, cluster)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
