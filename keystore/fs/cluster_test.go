package fs_test

import (
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/kms/clustertest"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	var path string
	id := clustertest.ID.String()
	node := func(t *testing.T) keystore.Store {
		s, err := fs.Open(fs.Config{Path: path}, id)
		must(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	clustertest.Run(t, clustertest.Harness{
		Fresh: func(t *testing.T) func() keystore.Store {
			path = watchedDir(t, id)
			return func() keystore.Store { return node(t) }
		},
		Network: func(t *testing.T) (keystore.Store, []*netfault.Proxy) { return node(t), nil },
		Data:    func(*testing.T) []string { return []string{path} },
	})
}
