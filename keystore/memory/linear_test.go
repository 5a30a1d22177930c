package memory_test

import (
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/keystore/storetest/linear"
)

func TestKS32_Linearizable(t *testing.T) {
	s := memory.New()
	t.Cleanup(func() { s.Close() })
	linear.Run(t, linear.Harness{Open: func(*testing.T) linear.Nodes { return linear.Nodes{Stores: []keystore.Store{s, s, s}} }})
}
