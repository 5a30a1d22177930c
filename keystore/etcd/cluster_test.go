package etcd_test

import (
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/etcd"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/kms/clustertest"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	e := servers.SharedEtcd(t)
	id := clustertest.ID.String()
	var last etcd.Config
	openAs := func(t *testing.T, cfg etcd.Config) keystore.Store {
		s, err := etcd.Open(cfg, id)
		want(t, "open", err, nil)
		t.Cleanup(func() { s.Close() })
		return s
	}
	clustertest.Run(t, clustertest.Harness{
		Fresh: func(t *testing.T) func() keystore.Store {
			last = config(e)
			cfg := last
			want(t, "init", etcd.Init(t.Context(), cfg, id), nil)
			return func() keystore.Store { return openAs(t, cfg) }
		},
		Network: func(t *testing.T) (keystore.Store, []*netfault.Proxy) {
			cfg, proxies := proxied(t, last)
			return openAs(t, cfg), proxies
		},
		Data: func(*testing.T) []string { return []string{e.File("0"), e.File("1"), e.File("2")} },
	})
}
