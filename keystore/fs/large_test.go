package fs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keygate/keygate/keystore"
)

// TestKS11_LargeFile: a file of a size that no record has is not read, however
// little room it takes on the disk: its size is what memory would be made for.
func TestKS11_LargeFile(t *testing.T) {
	path := newDir(t)
	s := openStore(t, path)
	must(t, s.Create(t.Context(), "app", make([]byte, keystore.MaxRecordSize)))
	_, _, err := s.Get(t.Context(), "app")
	must(t, err)
	must(t, os.Truncate(filepath.Join(path, "app.record"), 1<<43))
	_, _, err = s.Get(t.Context(), "app")
	wantError(t, "get", err, keystore.ErrCorrupt)
	if !strings.Contains(err.Error(), "more than") {
		t.Errorf("get: got %v, which does not tell of the size", err)
	}
}
