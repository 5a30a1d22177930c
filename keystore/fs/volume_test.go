package fs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
)

// newVolume mounts a small file system and makes a store in it.
func newVolume(t *testing.T, options string) (volume string, s *fs.Store) {
	needRoot(t)
	volume = t.TempDir()
	if err := unix.Mount("tmpfs", volume, "tmpfs", 0, options); err != nil {
		cannot(t, "mount tmpfs: %v", err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(volume, 0)) })
	path := filepath.Join(volume, "store")
	must(t, fs.Init(fs.Config{Path: path}, cluster))
	return volume, openStore(t, path)
}

// TestKS06_FullVolume: with no space, or no inodes, writes fail, reads go on,
// no part of a key is there, and all is well when there is space again.
func TestKS06_FullVolume(t *testing.T) {
	for name, options := range map[string]string{"space": "size=256k", "inodes": "nr_inodes=40"} {
		t.Run(name, func(t *testing.T) {
			volume, s := newVolume(t, options)
			ctx := t.Context()
			must(t, s.Create(ctx, "app", []byte("record")))
			_, rev, err := s.Get(ctx, "app")
			must(t, err)
			var fillers []string
			for i := 0; ; i++ {
				filler := filepath.Join(volume, fmt.Sprint(i))
				if os.WriteFile(filler, make([]byte, 4096), 0o600) != nil {
					os.Remove(filler)
					os.WriteFile(filler, nil, 0o600) // takes the last inode, or nothing
					break
				}
				fillers = append(fillers, filler)
			}
			record := make([]byte, 8192)
			wantError(t, "create", s.Create(ctx, "new", record), keystore.ErrUnavailable)
			wantError(t, "create", s.Create(ctx, "new", record), unix.ENOSPC)
			wantError(t, "update", s.Update(ctx, "app", record, rev), keystore.ErrUnavailable)
			wantError(t, "status", s.Status(ctx), keystore.ErrUnavailable)
			got, now, err := s.Get(ctx, "app")
			if err != nil || now != rev || string(got) != "record" {
				t.Fatalf("get: %q at %s, %v", got, now, err)
			}
			_, _, err = s.Get(ctx, "new")
			wantError(t, "get", err, keystore.ErrNotFound)
			checkNoTemps(t, filepath.Join(volume, "store"))
			for _, filler := range fillers {
				must(t, os.Remove(filler))
			}
			must(t, s.Status(ctx))
			must(t, s.Create(ctx, "new", record))
			must(t, s.Update(ctx, "app", record, rev))
		})
	}
}

// TestKS07_ReadOnlyVolume: a file system that turned read-only is read.
func TestKS07_ReadOnlyVolume(t *testing.T) {
	volume, s := newVolume(t, "size=1m")
	ctx := t.Context()
	must(t, s.Create(ctx, "app", []byte("record")))
	_, rev, err := s.Get(ctx, "app")
	must(t, err)
	remount := func(flags uintptr) {
		t.Helper()
		must(t, unix.Mount("tmpfs", volume, "tmpfs", unix.MS_REMOUNT|flags, ""))
	}
	remount(unix.MS_RDONLY)
	for call, err := range map[string]error{
		"create": s.Create(ctx, "new", []byte("x")), "update": s.Update(ctx, "app", []byte("x"), rev),
		"delete": s.Delete(ctx, "app", rev), "status": s.Status(ctx),
	} {
		wantError(t, call, err, keystore.ErrUnavailable)
		wantError(t, call, err, unix.EROFS)
	}
	got, now, err := s.Get(ctx, "app")
	if err != nil || now != rev || string(got) != "record" {
		t.Fatalf("get: %q at %s, %v", got, now, err)
	}
	remount(0)
	must(t, s.Delete(ctx, "app", rev))
}
