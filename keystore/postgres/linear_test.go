package postgres_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore/storetest/linear"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/keystore/storetest/servers"
)

// TestKS32_Linearizable: whatever the networks of three gateways do, and while the
// server is killed and started again, the store answers as one.
func TestKS32_Linearizable(t *testing.T) {
	t.Parallel()
	p := servers.OwnPostgres(t)
	cfg := newStore(t, p)
	cfg.Timeout = time.Second // so that some calls end without an answer
	cfg.Connections = 3       // each that is cut is made again, which takes the server's time
	linear.Run(t, linear.Harness{
		Every: 15 * time.Second, // it is down for seconds each time
		Open: func(t *testing.T) linear.Nodes {
			var nodes linear.Nodes
			for range 3 {
				through, proxy := proxied(t, cfg)
				nodes.Stores = append(nodes.Stores, open(t, through))
				nodes.Proxies = append(nodes.Proxies, []*netfault.Proxy{proxy})
			}
			return nodes
		},
		Break: func(t *testing.T, _ *rand.Rand) {
			p.Kill(t)
			p.Start(t)
		},
	})
}
