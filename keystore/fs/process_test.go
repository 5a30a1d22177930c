package fs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/keystore/storetest"
)

// The test binary run again with helperEnv set is another gateway: it opens the
// store at helperPath and does what helperEnv says.
const (
	helperEnv  = "FS_TEST_HELPER"
	helperPath = "FS_TEST_PATH"
)

// The main goroutine of the helper stays on the main thread, so that strace
// counts its calls, and no others, with the first thread.
func init() {
	if os.Getenv(helperEnv) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	storetest.Node(func(config []byte) (keystore.Store, error) {
		var cfg fs.Config
		if err := json.Unmarshal(config, &cfg); err != nil {
			return nil, err
		}
		return fs.Open(cfg, cluster)
	})
	if do := os.Getenv(helperEnv); do != "" {
		os.Exit(helper(do))
	}
	os.Exit(m.Run())
}

// helperEnviron is the environment of a helper. A process with the race detector
// sleeps for a second before it exits, unless told otherwise.
func helperEnviron(do, path string) []string {
	return append(os.Environ(), helperEnv+"="+do, helperPath+"="+path, "GOMAXPROCS=1", "GORACE=atexit_sleep_ms=0")
}

// helper returns the exit status. "start" and "ok" frame the operation.
func helper(do string) int {
	s, err := fs.Open(fs.Config{Path: os.Getenv(helperPath)}, cluster)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if do == "commands" {
		return obey(s)
	}
	ctx := context.Background()
	var rev keystore.Revision
	if do != "create" {
		if _, rev, err = s.Get(ctx, "app"); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println("start")
	if err := change(ctx, s, do, rev); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ok")
	return 0
}

// change does one operation on the key "app".
func change(ctx context.Context, s *fs.Store, do string, rev keystore.Revision) error {
	switch do {
	case "create":
		return s.Create(ctx, "app", []byte("new"))
	case "update":
		return s.Update(ctx, "app", []byte("new"), rev)
	case "delete":
		return s.Delete(ctx, "app", rev)
	}
	return errors.New("no such operation")
}

// obey answers each line of the input with a line.
func obey(s *fs.Store) int {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(answer(s, strings.Fields(lines.Text())))
	}
	return 0
}

// answer: "create NAME RECORD", "status", "get NAME".
func answer(s *fs.Store, words []string) string {
	ctx := context.Background()
	switch words[0] {
	case "create":
		return class(s.Create(ctx, words[1], []byte(words[2])))
	case "get":
		_, _, err := s.Get(ctx, words[1])
		return class(err)
	}
	return class(s.Status(ctx))
}

// class is the name of the sentinel that err is.
func class(err error) string {
	for name, sentinel := range map[string]error{
		"exists": keystore.ErrExists, "denied": keystore.ErrDenied,
		"unavailable": keystore.ErrUnavailable, "not-found": keystore.ErrNotFound,
	} {
		if errors.Is(err, sentinel) {
			return name
		}
	}
	return fmt.Sprint(err)
}

// A process is a helper that obeys commands.
type process struct {
	send func(command string)
	wait func() string // for the answer
}

func startProcess(t *testing.T, path string, prepare func(*exec.Cmd)) process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = helperEnviron("commands", path)
	cmd.Stderr = os.Stderr
	if prepare != nil {
		prepare(cmd)
	}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	lines := bufio.NewScanner(out)
	return process{
		send: func(command string) { fmt.Fprintln(in, command) },
		wait: func() string { lines.Scan(); return lines.Text() },
	}
}
