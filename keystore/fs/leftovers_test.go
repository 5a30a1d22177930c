package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
)

// TestKS10_Leftovers: what 1,000 killed writers leave is never listed nor read,
// stays while it may be in use, and is removed when it is an hour old.
func TestKS10_Leftovers(t *testing.T) {
	path := newDir(t)
	s := openStore(t, path)
	must(t, s.Create(t.Context(), "app", []byte("record")))
	whole, err := os.ReadFile(filepath.Join(path, "app.record"))
	must(t, err)
	old := time.Now().Add(-61 * time.Minute)
	for i := range 1000 {
		temp := filepath.Join(path, fmt.Sprintf(".tmp-%026d", i))
		must(t, os.WriteFile(temp, whole[:i%(len(whole)+1)], 0o600))
		if i%2 == 0 {
			must(t, os.Chtimes(temp, old, old))
		}
	}
	must(t, os.Link(filepath.Join(path, "app.record"), filepath.Join(path, ".tmp-LINKED")))
	foreign := filepath.Join(path, "README")
	must(t, os.WriteFile(foreign, []byte("of the operator"), 0o600))
	must(t, os.Chtimes(foreign, old, old))

	names, err := s.List(t.Context(), "", "", 5000)
	must(t, err)
	if len(names) != 1 || names[0] != "app" {
		t.Fatalf("list: got %d names %.3q, want [app]", len(names), names)
	}
	_, _, err = s.Get(t.Context(), "tmp")
	wantError(t, "get", err, keystore.ErrNotFound)

	again := openStore(t, path) // sweeps
	left, err := filepath.Glob(filepath.Join(path, ".tmp-*"))
	must(t, err)
	if len(left) != 501 {
		t.Errorf("%d temporary files left, want the 501 of this hour", len(left))
	}
	must(t, fs.Init(fs.Config{Path: path}, cluster))
	_, err = os.Stat(foreign)
	must(t, err)
	got, _, err := again.Get(t.Context(), "app")
	if err != nil || string(got) != "record" {
		t.Fatalf("get: got %q, %v", got, err)
	}
}
