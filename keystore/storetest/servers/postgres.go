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
	"time"
)

var postgresScript = &script{name: "postgres", wants: []string{"KEYGATE_TEST_POSTGRES", "KEYGATE_TEST_POSTGRES_DIR"}}

// A Postgres is a PostgreSQL server with TLS. In its database keygate the role owner
// may make schemas, and gateway may connect; the database empty is empty.
type Postgres struct {
	Host string // host:port
	Dir  string // the directory of its data; see scripts/postgres.sh
}

// SharedPostgres returns a server that other tests use too: take a schema of your
// own.
func SharedPostgres(tb testing.TB) Postgres {
	tb.Helper()
	return newPostgres(postgresScript.shared(tb))
}

// OwnPostgres starts a server for this test.
func OwnPostgres(tb testing.TB) Postgres {
	tb.Helper()
	return newPostgres(postgresScript.own(tb))
}

func newPostgres(vars map[string]string) Postgres {
	return Postgres{Host: vars["KEYGATE_TEST_POSTGRES"], Dir: vars["KEYGATE_TEST_POSTGRES_DIR"]}
}

// File returns the path of a file in Dir.
func (p Postgres) File(name string) string { return filepath.Join(p.Dir, name) }

// Password returns the file that holds the password of a role: postgres, owner or
// gateway.
func (p Postgres) Password(role string) string { return p.File(role + ".password") }

// Kill ends the server and the processes of its connections by SIGKILL.
func (p Postgres) Kill(tb testing.TB) {
	tb.Helper()
	text, err := os.ReadFile(p.File("data/postmaster.pid"))
	if err != nil {
		tb.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil || pid < 2 {
		tb.Fatalf("servers: process id %q", first)
	}
	// The server leads a process group of its own; those of connections have
	// theirs, and end when they see that it is gone, or here.
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		tb.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		tb.Fatal(err)
	}
	for _, child := range strings.Fields(string(children)) {
		if n, err := strconv.Atoi(child); err == nil {
			syscall.Kill(n, syscall.SIGKILL)
		}
	}
	gone(pid)
}

// Start starts the server again that was killed, and waits until it takes
// connections.
func (p Postgres) Start(tb testing.TB) {
	tb.Helper()
	// The server does not start while a process of the old one still has its shared
	// memory.
	var out []byte
	var err error
	for range 50 {
		if out, err = exec.Command(p.File("start.sh")).CombinedOutput(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	tb.Fatalf("servers: start PostgreSQL: %v: %s", err, out)
}
