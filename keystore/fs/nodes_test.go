package fs_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/keystore/storetest"
)

// TestProcesses: two gateways and more may share a directory.
func TestProcesses(t *testing.T) {
	path := newDir(t)
	storetest.RunProcesses(t, openStore(t, path), fs.Config{Path: path}, 100)
	checkNoTemps(t, path)
}

// TestKS19_PermissionLost needs root to start a gateway that is not.
func TestKS19_PermissionLost(t *testing.T) {
	needRoot(t)
	const nobody = 65534
	path := newDir(t)
	s := openStore(t, path)
	must(t, s.Create(t.Context(), "app", []byte("record")))
	must(t, filepath.Walk(path, func(file string, _ os.FileInfo, err error) error {
		must(t, err)
		return os.Chown(file, nobody, nobody)
	}))
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	// A copy: the binary itself may be where nobody can reach it.
	binary := filepath.Join(filepath.Dir(path), "gateway")
	must(t, copyFile(binary, os.Args[0], 0o755))
	p := startProcess(t, path, func(cmd *exec.Cmd) {
		cmd.Path = binary
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	})
	ask := func(command, want string) {
		t.Helper()
		p.send(command)
		if got := p.wait(); got != want {
			t.Errorf("%s: got %q, want %q", command, got, want)
		}
	}
	ask("get app", "<nil>")
	ask("get none", "not-found")
	for _, lost := range []struct {
		path string
		mode os.FileMode
	}{{path, 0}, {path, 0o400}, {filepath.Dir(path), 0o700}} {
		info, err := os.Stat(lost.path)
		must(t, err)
		must(t, os.Chmod(lost.path, lost.mode))
		ask("get app", "denied")
		ask("get none", "denied")
		ask("create new x", "denied")
		ask("status", "denied")
		must(t, os.Chmod(lost.path, info.Mode().Perm()))
		ask("get app", "<nil>")
		ask("get new", "not-found")
		ask("status", "<nil>")
	}
	must(t, os.Chmod(path, 0o500)) // may read, not write
	ask("get app", "<nil>")
	ask("create new x", "denied")
	ask("status", "denied")
	must(t, os.Chmod(filepath.Join(path, "app.record"), 0))
	ask("get app", "denied")
}

func checkNoTemps(t *testing.T, path string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(path, ".tmp-*")); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}
