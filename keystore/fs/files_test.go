package fs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// TestKS11_OddFiles puts things in place of a record that no gateway made.
func TestKS11_OddFiles(t *testing.T) {
	for _, c := range []struct {
		name, says string
		root       bool // the test needs to be root
		rights     bool // the error is ErrRights
		place      func(path, good string) error
	}{
		{"symbolic link to a record", "symbolic link", false, false, func(path, good string) error { return os.Symlink(good, path) }},
		{"symbolic link outside", "symbolic link", false, false, func(path, _ string) error { return os.Symlink("/etc/passwd", path) }},
		{"symbolic link to nothing", "symbolic link", false, false, func(path, _ string) error { return os.Symlink("nothing", path) }},
		{"FIFO", "not a regular file", false, false, func(path, _ string) error { return unix.Mkfifo(path, 0o600) }},
		{"directory", "not a regular file", false, false, func(path, _ string) error { return os.Mkdir(path, 0o700) }},
		{"socket", "socket", false, false, func(path, _ string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) }},
		{"device", "not a regular file", true, false, func(path, _ string) error {
			return unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) // /dev/zero
		}},
		{"hard link to another record", "checksum", false, false, func(path, good string) error { return os.Link(good, path) }},
		{"mode 0644", "mode 0644", false, true, func(path, good string) error { return copyFile(path, good, 0o644) }},
		{"mode 0620", "mode 0620", false, true, func(path, good string) error { return copyFile(path, good, 0o620) }},
		{"other owner", "owned by uid 12345", true, true, func(path, good string) error {
			return errors.Join(copyFile(path, good, 0o600), os.Chown(path, 12345, -1))
		}},
		{"empty file", "not a record file", false, false, func(path, _ string) error { return os.WriteFile(path, nil, 0o600) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root {
				needRoot(t)
			}
			dir, ctx := newDir(t), t.Context()
			s := openStore(t, dir)
			must(t, s.Create(ctx, "good", []byte("record")))
			_, rev, err := s.Get(ctx, "good")
			must(t, err)
			path := filepath.Join(dir, "odd.record")
			must(t, c.place(path, filepath.Join(dir, "good.record")))
			before := look(t, path)

			_, _, get := s.Get(ctx, "odd")
			for call, err := range map[string]error{
				"get": get, "update": s.Update(ctx, "odd", []byte("x"), rev), "delete": s.Delete(ctx, "odd", rev),
			} {
				if !errors.Is(err, keystore.ErrCorrupt) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s: got %v, want ErrCorrupt that says %q", call, err, c.says)
				}
				if errors.Is(err, keystore.ErrRights) != c.rights {
					t.Errorf("%s: got %v; is it ErrRights: want %t", call, err, c.rights)
				}
			}
			wantError(t, "create", s.Create(ctx, "odd", []byte("x")), keystore.ErrExists)
			if after := look(t, path); after != before {
				t.Errorf("changed from %s to %s", before, after)
			}
			_, _, err = s.Get(ctx, "good")
			must(t, err)
		})
	}
}

// TestKS11_TwoLinksAreRead: a crash between link and unlink leaves two.
func TestKS11_TwoLinksAreRead(t *testing.T) {
	dir := newDir(t)
	s := openStore(t, dir)
	must(t, s.Create(t.Context(), "app", []byte("record")))
	must(t, os.Link(filepath.Join(dir, "app.record"), filepath.Join(dir, ".tmp-LEFT")))
	_, _, err := s.Get(t.Context(), "app")
	must(t, err)
}

func TestFilesArePrivate(t *testing.T) {
	defer unix.Umask(unix.Umask(0)) // the worst
	dir := newDir(t)
	must(t, openStore(t, dir).Create(t.Context(), "app", []byte("record")))
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		must(t, err)
		info, err := e.Info()
		must(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
		return nil
	}))
}

func TestKS12_FileNamesAreLowerCase(t *testing.T) {
	dir := newDir(t)
	s := openStore(t, dir)
	for _, name := range []string{"App", "app", "aPP", "APP"} {
		must(t, s.Create(t.Context(), name, []byte(name)))
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	seen := map[string]bool{}
	for _, e := range entries {
		folded := strings.ToLower(e.Name())
		if folded != e.Name() || seen[folded] {
			t.Errorf("file %q would collide where case is ignored", e.Name())
		}
		seen[folded] = true
	}
	if len(seen) != 5 {
		t.Errorf("got %d files, want 4 records and the identity", len(seen))
	}
}

func copyFile(to, from string, mode os.FileMode) error {
	p, err := os.ReadFile(from)
	return errors.Join(err, os.WriteFile(to, p, mode), os.Chmod(to, mode))
}

// look describes what is at path, without following a link.
func look(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	return info.Mode().String() + " " + info.ModTime().String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, call string, err, sentinel error) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("%s: got %v, want %v", call, err, sentinel)
	}
}

// needRoot ends a test that needs root where it is not.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		cannot(t, "needs root")
	}
}
