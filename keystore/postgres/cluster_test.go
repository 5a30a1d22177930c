package postgres_test

import (
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/postgres"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/keystore/storetest/servers"
	"github.com/keygate/keygate/kms/clustertest"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	p := servers.SharedPostgres(t)
	id := clustertest.ID.String()
	var last postgres.Config
	openAs := func(t *testing.T, cfg postgres.Config) keystore.Store {
		s, err := postgres.Open(cfg, id)
		want(t, "open", err, nil)
		t.Cleanup(func() { s.Close() })
		return s
	}
	clustertest.Run(t, clustertest.Harness{
		Fresh: func(t *testing.T) func() keystore.Store {
			last = config(p)
			cfg := last
			want(t, "init", postgres.Init(t.Context(), cfg, id), nil)
			return func() keystore.Store { return openAs(t, cfg) }
		},
		Network: func(t *testing.T) (keystore.Store, []*netfault.Proxy) {
			cfg, proxy := proxied(t, last)
			return openAs(t, cfg), []*netfault.Proxy{proxy}
		},
		Data: func(t *testing.T) []string {
			admin(t, p, "CHECKPOINT")
			return []string{p.File("data")}
		},
	})
}
