package fs_test

import (
	"testing"

	"github.com/keygate/keygate/keystore/storetest/linear"
)

// TestKS32_Linearizable: three gateways over one directory answer as one.
func TestKS32_Linearizable(t *testing.T) {
	path := newDir(t)
	linear.Run(t, linear.Harness{Open: func(t *testing.T) linear.Nodes {
		var nodes linear.Nodes
		for range 3 {
			nodes.Stores = append(nodes.Stores, openStore(t, path))
		}
		return nodes
	}})
}
