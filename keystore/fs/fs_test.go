package fs_test

import (
	"path/filepath"
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/keystore/storetest"
)

const cluster = "000102030405060708090a0b0c0d0e0f"

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Fresh: func(t *testing.T) func() keystore.Store {
			path := newDir(t)
			return func() keystore.Store { return openStore(t, path) }
		},
	})
}

// newDir makes the directory of a store and returns its path.
func newDir(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store")
	if err := fs.Init(fs.Config{Path: path}, cluster); err != nil {
		t.Fatal(err)
	}
	return path
}

// openStore opens the store at path until the test ends.
func openStore(t *testing.T, path string) *fs.Store {
	t.Helper()
	s, err := fs.Open(fs.Config{Path: path}, cluster)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
