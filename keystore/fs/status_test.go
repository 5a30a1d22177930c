package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// TestKS06_StatusTellsWhatCreateMeets: with room for a temporary file but none
// for its final name (tmpfs counts an inode for each link), Create fails, so
// Status must too.
func TestKS06_StatusTellsWhatCreateMeets(t *testing.T) {
	volume, s := newVolume(t, "nr_inodes=40")
	ctx := t.Context()
	must(t, s.Status(ctx))
	last := ""
	for i := 0; ; i++ {
		filler := filepath.Join(volume, fmt.Sprint(i))
		if os.WriteFile(filler, nil, 0o600) != nil {
			break
		}
		last = filler
	}
	must(t, os.Remove(last)) // one inode is free
	create := s.Create(ctx, "app", []byte("record"))
	wantError(t, "create", create, keystore.ErrUnavailable)
	wantError(t, "create", create, unix.ENOSPC)
	wantError(t, "status", s.Status(ctx), keystore.ErrUnavailable)
	checkNoTemps(t, filepath.Join(volume, "store"))
	_, _, err := s.Get(ctx, "app")
	wantError(t, "get", err, keystore.ErrNotFound)
}

// TestKS19_VolumeGone: what is below the mount point is no empty store.
func TestKS19_VolumeGone(t *testing.T) {
	volume, s := newVolume(t, "size=1m")
	must(t, s.Create(t.Context(), "app", []byte("record")))
	_, rev, err := s.Get(t.Context(), "app")
	must(t, err)
	must(t, unix.Mount("tmpfs", volume, "tmpfs", 0, "size=1m")) // as an empty volume in its place
	checkUnavailable(t, s, rev, "no such file")
	checkUnavailable(t, openStore(t, filepath.Join(volume, "store")), rev, "no such file")
	must(t, unix.Unmount(volume, 0))
	_, _, err = s.Get(t.Context(), "app")
	must(t, err)
}
