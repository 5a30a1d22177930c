package vaultkv_test

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/keygate/keygate/keystore/storetest/linear"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/vault/vaulttest"
)

// TestKS32_Linearizable: whatever the networks of three gateways do, a Vault answers as
// one.
func TestKS32_Linearizable(t *testing.T) {
	core := vaulttest.Real(t)
	cfg := tokenConfig(t, core.Server, core.Root, "clusters/"+rand.Text())
	initialise(t, cfg)
	linear.Run(t, linear.Harness{Histories: 30, Open: func(t *testing.T) linear.Nodes {
		var nodes linear.Nodes
		for range 3 {
			proxy := netfault.New(t, strings.TrimPrefix(core.Address, "https://"))
			through := cfg
			through.Address = "https://" + proxy.Addr()
			nodes.Stores = append(nodes.Stores, open(t, through))
			nodes.Proxies = append(nodes.Proxies, []*netfault.Proxy{proxy})
		}
		return nodes
	}})
}
