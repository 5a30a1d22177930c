package etcd_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore/storetest/linear"
	"github.com/keygate/keygate/keystore/storetest/servers"
)

// TestKS32_Linearizable: whatever the networks of three gateways do, and while
// members are killed, or stand still, the store answers as one.
func TestKS32_Linearizable(t *testing.T) {
	t.Parallel()
	e := servers.OwnEtcd(t)
	cfg := newStore(t, e)
	cfg.Timeout = time.Second // so that some calls end without an answer
	linear.Run(t, linear.Harness{
		Open: func(t *testing.T) linear.Nodes {
			var nodes linear.Nodes
			for range 3 {
				through, proxies := proxied(t, cfg)
				nodes.Stores = append(nodes.Stores, open(t, through))
				nodes.Proxies = append(nodes.Proxies, proxies)
			}
			return nodes
		},
		Break: func(t *testing.T, rng *rand.Rand) {
			member, lasts := rng.IntN(3), time.Duration(rng.Int64N(int64(time.Second)))
			if rng.IntN(2) == 0 {
				e.Kill(t, member)
				time.Sleep(lasts)
				e.Start(t, member)
				return
			}
			e.Stop(t, member)
			time.Sleep(lasts)
			e.Continue(t, member)
		},
	})
}
