package fs_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
)

// traced are the system calls before which a gateway is killed.
const traced = "openat,newfstatat,fstat,read,write,fsync,fdatasync,close,flock,?linkat,?link,?renameat,?renameat2,?rename,?unlinkat,?unlink,?fchmod,getdents64"

// TestKS02_KillAtEverySystemCall kills a real process, by SIGKILL, at each
// system call of each operation: afterwards the old or the new state is there,
// the new one if it was acknowledged, and the operation can be done.
func TestKS02_KillAtEverySystemCall(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		cannot(t, "needs strace: %v", err)
	}
	for _, op := range []killed{
		{"create", "", "new", keystore.ErrExists},
		{"update", "old", "new", keystore.ErrConflict},
		{"delete", "old", "", keystore.ErrNotFound},
	} {
		t.Run(op.do, func(t *testing.T) {
			points := killPoints(t, op)
			t.Logf("%d kill points: %v", len(points), points)
			if len(points) < 10 {
				t.Fatal("too few: is strace in use?")
			}
			for _, at := range points {
				t.Run(at.String(), func(t *testing.T) {
					t.Parallel()
					op.killAt(t, at)
				})
			}
		})
	}
}

// killed is an operation on the key "app", and what may be there after: "" is
// no record.
type killed struct {
	do, old, new string
	retried      error // what a retry returns if the operation was done
}

func (op killed) killAt(t *testing.T, at point) {
	path, rev := prepare(t, op.old)
	out, died := trace(t, path, op.do, "-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", at.call, at.n))
	if !died || out != "start\n" {
		t.Fatalf("killed %v, output %q: the kill was not within the operation", died, out)
	}
	op.check(t, path, rev, false)
}

// A point is the nth call of its kind that the main thread makes.
type point struct {
	call string
	n    int
}

func (p point) String() string { return fmt.Sprintf("%s-%d", p.call, p.n) }

var traceLine = regexp.MustCompile(`^(\d+) +([a-z0-9_]+)\(`)

// killPoints runs the operation whole and returns its system calls, from the
// line "start" to the line "ok" that the process writes.
func killPoints(t *testing.T, op killed) []point {
	t.Helper()
	path, rev := prepare(t, op.old)
	log := filepath.Join(t.TempDir(), "trace")
	if out, died := trace(t, path, op.do, "-o", log); died || out != "start\nok\n" {
		t.Fatalf("without a kill: output %q", out)
	}
	op.check(t, path, rev, true)
	text, err := os.ReadFile(log)
	must(t, err)
	var points []point
	main, started, count := "", false, map[string]int{}
	for line := range strings.Lines(string(text)) {
		m := traceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if main == "" {
			main = m[1]
		}
		if m[1] != main {
			continue
		}
		count[m[2]]++
		if started {
			points = append(points, point{m[2], count[m[2]]})
		}
		if strings.Contains(line, `"ok\n"`) {
			break
		}
		started = started || strings.Contains(line, `write(1, "start\n"`)
	}
	return points
}

// trace runs the operation in a process under strace, and returns its output
// and whether it was killed.
func trace(t *testing.T, path, do string, args ...string) (out string, killed bool) {
	t.Helper()
	if args[0] != "-o" {
		args = append(args, "-o", "/dev/null")
	}
	args = append([]string{"-f", "-qq", "-e", "trace=" + traced}, args...)
	cmd := exec.Command("strace", append(args, os.Args[0])...)
	cmd.Env = helperEnviron(do, path)
	text, err := cmd.Output()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if err != nil && !ok {
		t.Fatal(err)
	}
	// strace ends itself by the signal that ended the process.
	return string(text), ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// prepare makes a store in which "app" holds old, if that is not empty.
func prepare(t *testing.T, old string) (path string, rev keystore.Revision) {
	t.Helper()
	path = newDir(t)
	s := openStore(t, path)
	must(t, s.Create(t.Context(), "other", []byte("other")))
	if old != "" {
		must(t, s.Create(t.Context(), "app", []byte(old)))
		var err error
		_, rev, err = s.Get(t.Context(), "app")
		must(t, err)
	}
	return path, rev
}

// check opens the store as after a restart.
func (op killed) check(t *testing.T, path string, rev keystore.Revision, acknowledged bool) {
	t.Helper()
	s := openStore(t, path)
	got := record(t, s)
	if got != op.old && got != op.new {
		t.Fatalf("neither the old state nor the new: %q", got)
	}
	if acknowledged && got != op.new {
		t.Fatalf("acknowledged, but the record is %q", got)
	}
	var want error
	if got == op.new {
		want = op.retried
	}
	wantError(t, "retry", change(t.Context(), s, op.do, rev), want)
	if got := record(t, s); got != op.new {
		t.Fatalf("after the retry: %q, want %q", got, op.new)
	}
	other, _, err := s.Get(t.Context(), "other")
	if err != nil || string(other) != "other" {
		t.Fatalf("the other key: %q, %v", other, err)
	}
}

// record returns the record of "app", "" if there is none.
func record(t *testing.T, s *fs.Store) string {
	t.Helper()
	p, _, err := s.Get(t.Context(), "app")
	if errors.Is(err, keystore.ErrNotFound) {
		return ""
	}
	must(t, err)
	return string(p)
}
