package fs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
)

const otherCluster = "ffffffffffffffffffffffffffffffff"

// wrongDirectories are ways to take the directory away while the store is open.
var wrongDirectories = []struct {
	name, says string
	root       bool
	takeAway   func(t *testing.T, path string) (putBack func())
}{
	{"missing", "no such file", false, moveAway},
	{"empty", "no identity file", false, func(t *testing.T, path string) func() {
		back := moveAway(t, path)
		must(t, os.Mkdir(path, 0o700))
		return func() { must(t, os.Remove(path)); back() }
	}},
	{"emptied in place", "no identity file", false, func(t *testing.T, path string) func() {
		back, err := os.MkdirTemp(filepath.Dir(path), "emptied-")
		must(t, err)
		moveAll(t, path, back)
		return func() { moveAll(t, back, path) }
	}},
	{"of another cluster", "is of cluster", false, func(t *testing.T, path string) func() {
		back := moveAway(t, path)
		must(t, fs.Init(fs.Config{Path: path}, otherCluster))
		return func() { must(t, os.RemoveAll(path)); back() }
	}},
	{"identity of another cluster in place", "is of cluster", false, func(t *testing.T, path string) func() {
		id := filepath.Join(path, "identity")
		good, err := os.ReadFile(id)
		must(t, err)
		must(t, os.WriteFile(id, []byte(strings.ReplaceAll(string(good), cluster, otherCluster)), 0o600))
		return func() { must(t, os.WriteFile(id, good, 0o600)) }
	}},
	{"identity file cut short", "identity file", false, func(t *testing.T, path string) func() {
		id := filepath.Join(path, "identity")
		good, err := os.ReadFile(id)
		must(t, err)
		must(t, os.WriteFile(id, good[:20], 0o600))
		return func() { must(t, os.WriteFile(id, good, 0o600)) }
	}},
	{"identity file a symbolic link", "symbolic link", false, func(t *testing.T, path string) func() {
		id := filepath.Join(path, "identity")
		back := moveAway(t, id)
		must(t, os.Symlink(filepath.Base(id)+".away", id))
		return func() { must(t, os.Remove(id)); back() }
	}},
	{"a file", "not a directory", false, func(t *testing.T, path string) func() {
		back := moveAway(t, path)
		must(t, os.WriteFile(path, nil, 0o600))
		return func() { must(t, os.Remove(path)); back() }
	}},
	{"writable by others", "mode 0777", false, func(t *testing.T, path string) func() {
		must(t, os.Chmod(path, 0o777))
		return func() { must(t, os.Chmod(path, 0o700)) }
	}},
	{"owned by another", "owned by uid 12345", true, func(t *testing.T, path string) func() {
		must(t, os.Chown(path, 12345, -1))
		return func() { must(t, os.Chown(path, 0, -1)) }
	}},
	{"tmpfs mounted over it", "", true, func(t *testing.T, path string) func() {
		if err := unix.Mount("tmpfs", path, "tmpfs", 0, "mode=0700"); err != nil {
			cannot(t, "mount tmpfs: %v", err)
		}
		return func() { must(t, unix.Unmount(path, 0)) }
	}},
}

// TestKS19_WrongDirectory takes the directory away while the store is open: all calls are ErrUnavailable (or ErrDenied), never ErrNotFound, and
// all is well when it is back.
func TestKS19_WrongDirectory(t *testing.T) {
	for _, c := range wrongDirectories {
		t.Run(c.name, func(t *testing.T) {
			if c.root {
				needRoot(t)
			}
			path := newDir(t)
			s := openStore(t, path)
			must(t, s.Create(t.Context(), "app", []byte("record")))
			_, rev, err := s.Get(t.Context(), "app")
			must(t, err)
			putBack := c.takeAway(t, path)
			late := openStore(t, path)
			for _, s := range []*fs.Store{s, late} {
				checkUnavailable(t, s, rev, c.says)
			}
			putBack()
			for _, s := range []*fs.Store{s, late} {
				must(t, s.Status(t.Context()))
				record, now, err := s.Get(t.Context(), "app")
				if err != nil || now != rev || string(record) != "record" {
					t.Fatalf("when it is back: got %q at %s, %v", record, now, err)
				}
				_, _, err = s.Get(t.Context(), "new")
				wantError(t, "get", err, keystore.ErrNotFound)
			}
		})
	}
}

func checkUnavailable(t *testing.T, s *fs.Store, rev keystore.Revision, says string) {
	t.Helper()
	ctx := t.Context()
	_, _, get := s.Get(ctx, "app")
	_, _, none := s.Get(ctx, "none")
	_, list := s.List(ctx, "", "", 9)
	for call, err := range map[string]error{
		"get": get, "get of no record": none, "list": list, "status": s.Status(ctx),
		"create": s.Create(ctx, "new", []byte("x")),
		"update": s.Update(ctx, "app", []byte("x"), rev),
		"delete": s.Delete(ctx, "app", rev),
	} {
		if !errors.Is(err, keystore.ErrUnavailable) || errors.Is(err, keystore.ErrNotFound) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want ErrUnavailable that says %q", call, err, says)
		}
	}
}

func moveAway(t *testing.T, path string) func() {
	must(t, os.Rename(path, path+".away"))
	return func() { must(t, os.Rename(path+".away", path)) }
}

func moveAll(t *testing.T, from, to string) {
	entries, err := os.ReadDir(from)
	must(t, err)
	for _, e := range entries {
		must(t, os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())))
	}
}

// TestInit checks what Init makes, repeats and refuses.
func TestInit(t *testing.T) {
	path := newDir(t)
	cfg := fs.Config{Path: path}
	s := openStore(t, path)
	must(t, s.Create(t.Context(), "app", []byte("record")))
	must(t, fs.Init(cfg, cluster))
	_, _, err := s.Get(t.Context(), "app")
	must(t, err)
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != os.ModeDir|0o700 {
		t.Errorf("mode is %s, want 0700", info.Mode())
	}
	if err := fs.Init(cfg, otherCluster); err == nil || !strings.Contains(err.Error(), "is of cluster") {
		t.Errorf("another identity: got %v", err)
	}
	if err := fs.Init(fs.Config{Path: filepath.Join(path, "none", "store")}, cluster); err == nil {
		t.Error("a parent that is missing: got no error")
	}
	full := t.TempDir()
	must(t, os.WriteFile(filepath.Join(full, "app.record"), nil, 0o600))
	if err := fs.Init(fs.Config{Path: full}, cluster); err == nil || !strings.Contains(err.Error(), `"app.record"`) {
		t.Errorf("a directory with records but no identity: got %v", err)
	}
	empty := t.TempDir()
	must(t, os.Mkdir(filepath.Join(empty, "lost+found"), 0o700))
	must(t, fs.Init(fs.Config{Path: empty}, cluster))
	for _, identity := range []string{"", "a b", "a\n", "é", strings.Repeat("a", 129)} {
		if err := fs.Init(fs.Config{Path: t.TempDir()}, identity); err == nil {
			t.Errorf("identity %q: got no error", identity)
		}
	}
	if _, err := fs.Open(fs.Config{}, cluster); err == nil {
		t.Error("open without a path: got no error")
	}
}

// cannot ends a test that cannot run here: Skip at a desk, Fatal in CI.
func cannot(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
