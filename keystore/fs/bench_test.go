package fs_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore/fs"
)

func BenchmarkGet(b *testing.B) {
	path := b.TempDir() + "/store"
	s := benchStore(b, path)
	for b.Loop() {
		if _, _, err := s.Get(b.Context(), "app"); err != nil {
			b.Fatal(err)
		}
	}
}

// benchStore makes a store with the key "app" whose directory was last changed
// long ago, as in the steady state.
func benchStore(b *testing.B, path string) *fs.Store {
	cfg := fs.Config{Path: path}
	old := time.Now().Add(-time.Hour)
	s, err := fs.Open(cfg, cluster)
	err = errors.Join(err, fs.Init(cfg, cluster), s.Create(b.Context(), "app", make([]byte, 600)), os.Chtimes(path, old, old))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}
