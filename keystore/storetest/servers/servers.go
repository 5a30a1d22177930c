// Package servers has real servers for the tests of key stores, as the scripts
// etcd.sh and postgres.sh start them, on loopback. They end with the process that
// started them. Where they cannot be had a test is skipped, or fails if the
// environment says CI=true.
package servers

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// ready is how long a script may take until its servers are up; it may have to
// install them.
const ready = 5 * time.Minute

// A script is one that prints variables when it is ready, and runs until its
// standard input ends.
type script struct {
	name  string
	wants []string // the variables that it prints

	once sync.Once
	vars map[string]string
	stop func() // held, as the script ends when its input is collected as garbage
	err  error
}

// shared returns the variables: those of the environment, if they are there, or of
// a script that is started once and runs until this process ends.
func (s *script) shared(tb testing.TB) map[string]string {
	tb.Helper()
	s.once.Do(func() {
		if s.vars = environment(s.wants); s.vars == nil {
			s.vars, s.stop, s.err = s.start()
		}
	})
	if s.err != nil {
		missing(tb, s.err)
	}
	return s.vars
}

// own starts servers that the test has for itself, and may break.
func (s *script) own(tb testing.TB) map[string]string {
	tb.Helper()
	vars, stop, err := s.start()
	if err != nil {
		missing(tb, err)
	}
	tb.Cleanup(stop)
	return vars
}

func environment(names []string) map[string]string {
	vars := make(map[string]string)
	for _, name := range names {
		if vars[name] = os.Getenv(name); vars[name] == "" {
			return nil
		}
	}
	return vars
}

// start starts the script and waits until it has printed what it has to. stop
// stops it and waits for its end; without it, it ends with this process.
func (s *script) start() (vars map[string]string, stop func(), err error) {
	root, err := repository()
	if err != nil {
		return nil, nil, err
	}
	log, err := os.CreateTemp("", "keygate-"+s.name+"-*.log")
	if err != nil {
		return nil, nil, err
	}
	defer os.Remove(log.Name())
	defer log.Close()
	cmd := exec.Command(filepath.Join(root, "scripts", s.name+".sh"))
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() { in.Close(); cmd.Wait() }
	late := time.AfterFunc(ready, func() { in.Close(); cmd.Process.Kill() })
	defer late.Stop()
	if vars = read(out, s.wants); vars == nil {
		stop()
		text, _ := os.ReadFile(log.Name())
		return nil, nil, fmt.Errorf("servers: %s.sh: %s", s.name, strings.TrimSpace(string(text)))
	}
	return vars, stop, nil
}

// read returns the variables that a script prints, or nil if it ends before.
func read(out io.Reader, names []string) map[string]string {
	vars := make(map[string]string)
	for lines := bufio.NewScanner(out); len(vars) < len(names); {
		if !lines.Scan() {
			return nil
		}
		name, value, ok := strings.Cut(lines.Text(), "=")
		if ok {
			vars[name] = value
		}
	}
	return vars
}

// repository returns the directory that has go.mod.
func repository() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("servers: no go.mod here or above")
		}
	}
	return "", err
}

// gone waits for up to a second until a process has ended; nobody need have waited for
// it.
func gone(pid int) {
	for range 200 {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid)); err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func missing(tb testing.TB, err error) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(err)
	}
	tb.Skip(err)
}

// Main is for the TestMain of a package whose tests wait for time-outs, not for the
// processor: it runs more of them at a time than there are processors.
func Main(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err) // it is a flag of package testing
	}
	os.Exit(m.Run())
}

// Long returns how often to do what takes long: every day, or, with KEYGATE_LONG=1
// in the environment, once in a while.
func Long(day, long int) int {
	if os.Getenv("KEYGATE_LONG") == "1" {
		return long
	}
	return day
}
