package memory_test

import (
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/keystore/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Rounds: 200,
		Fresh: func(t *testing.T) func() keystore.Store {
			s := memory.New()
			t.Cleanup(func() { s.Close() })
			return func() keystore.Store { return s }
		},
	})
}
