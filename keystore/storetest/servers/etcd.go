package servers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

var etcdScript = &script{name: "etcd", wants: []string{"KEYGATE_TEST_ETCD", "KEYGATE_TEST_ETCD_DIR"}}

// An Etcd is a cluster of three members, with mutual TLS.
type Etcd struct {
	Endpoints []string
	Dir       string // the directory of its data; see scripts/etcd.sh
}

// SharedEtcd returns a cluster that other tests use too: take a prefix of your own.
func SharedEtcd(tb testing.TB) Etcd {
	tb.Helper()
	return newEtcd(etcdScript.shared(tb))
}

// OwnEtcd starts a cluster for this test.
func OwnEtcd(tb testing.TB) Etcd {
	tb.Helper()
	return newEtcd(etcdScript.own(tb))
}

func newEtcd(vars map[string]string) Etcd {
	return Etcd{Endpoints: strings.Split(vars["KEYGATE_TEST_ETCD"], ","), Dir: vars["KEYGATE_TEST_ETCD_DIR"]}
}

// File returns the path of a file in Dir.
func (e Etcd) File(name string) string { return filepath.Join(e.Dir, name) }

// Kill ends a member, from 0 to 2, by SIGKILL, and waits until it is gone: Start would
// find its ports taken.
func (e Etcd) Kill(tb testing.TB, member int) {
	tb.Helper()
	gone(e.signal(tb, member, syscall.SIGKILL))
}

// Stop has a member stand still until Continue.
func (e Etcd) Stop(tb testing.TB, member int) {
	tb.Helper()
	e.signal(tb, member, syscall.SIGSTOP)
}

// Continue ends Stop.
func (e Etcd) Continue(tb testing.TB, member int) {
	tb.Helper()
	e.signal(tb, member, syscall.SIGCONT)
}

// signal sends a signal to a member and returns its process id.
func (e Etcd) signal(tb testing.TB, member int, signal syscall.Signal) (pid int) {
	tb.Helper()
	text, err := os.ReadFile(e.File(fmt.Sprintf("%d.pid", member)))
	if err != nil {
		tb.Fatal(err)
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = syscall.Kill(pid, signal)
	}
	if err != nil {
		tb.Fatalf("servers: %v member %d: %v", signal, member, err)
	}
	return pid
}

// Start starts a member again that was killed.
func (e Etcd) Start(tb testing.TB, member int) {
	tb.Helper()
	if out, err := exec.Command(e.File(fmt.Sprintf("%d.sh", member))).CombinedOutput(); err != nil {
		tb.Fatalf("servers: start member %d: %v: %s", member, err, out)
	}
}

// Restore puts a snapshot in the place of what the members have, which must not run.
func (e Etcd) Restore(tb testing.TB, file string) {
	tb.Helper()
	if out, err := exec.Command(e.File("restore.sh"), file).CombinedOutput(); err != nil {
		tb.Fatalf("servers: restore %s: %v: %s", file, err, out)
	}
}
