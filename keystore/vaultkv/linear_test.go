package vaultkv_test

import (
	"crypto/rand"
	"testing"

	"github.com/keygate/keygate/keystore/storetest/linear"
	"github.com/keygate/keygate/vault/vaulttest"
)

// TestKS32_Linearizable: three gateways over one mount of a Vault answer as one.
func TestKS32_Linearizable(t *testing.T) {
	core := vaulttest.Real(t)
	cfg := tokenConfig(t, core.Server, core.Root, "clusters/"+rand.Text())
	initialise(t, cfg)
	linear.Run(t, linear.Harness{Open: func(t *testing.T) linear.Nodes {
		var nodes linear.Nodes
		for range 3 {
			nodes.Stores = append(nodes.Stores, open(t, cfg))
		}
		return nodes
	}})
}
