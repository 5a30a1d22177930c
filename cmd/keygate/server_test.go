package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keygate/keygate/softhsm"
)

// TestServer runs the server as an operator does. Each script has a token and
// identities of its own.
func TestServer(t *testing.T) {
	files, err := filepath.Glob("testdata/server_*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts (%v)", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			o := &operator{token: softhsm.Token(t), other: softhsm.Token(t)}
			testscript.Run(t, testscript.Params{Files: []string{file}, Setup: o.setUp, Cmds: scriptCommands{
				"envsubst": envsubst, "mode": checkMode, "field": writeField,
				"server": o.start, "signal": o.signal, "stopped": o.stopped, "logged": o.logged, "hidden": o.hidden, "worker": o.worker,
				"issue": issueCertificate, "rest": restCall, "replace": replaceText, "drop": dropLine,
			}})
		})
	}
}

// An operator runs a server, whose log is server.log in the script's directory.
type operator struct {
	token softhsm.Fixture
	other softhsm.Fixture // of another HSM
	cmd   *exec.Cmd
	log   string
	done  chan struct{} // closed when the server has ended

	lastWorker int // process id
}

// setUp gives a script an authority, a server certificate, the identities admin
// and app, and the files pin and officer-pin, of $TOKEN, and pin2, of $TOKEN2. The client commands run as app.
func (o *operator) setUp(env *testscript.Env) error {
	made, err := makeIdentities(env.WorkDir)
	if err != nil {
		return err
	}
	file := func(name string) string { return filepath.Join(env.WorkDir, name) }
	env.Vars = append(env.Vars, noRaceSleep, "GODEBUG="+os.Getenv("GODEBUG"), softhsm.ConfEnv+"="+o.token.Conf,
		"ADMIN="+made["admin"], "APP="+made["app"], "MODULE="+o.token.Module, "TOKEN="+o.token.Label, "TOKEN2="+o.other.Label, "PIN="+o.token.PIN,
		"KEYGATE_CACERT="+file("ca.crt"), "KEYGATE_CLIENT_CERT="+file("app.crt"), "KEYGATE_CLIENT_KEY="+file("app.key"))
	for name, pin := range map[string]string{"pin": o.token.PIN, "officer-pin": o.token.SOPIN, "pin2": o.other.PIN} {
		if err := writeFile(file(name), []byte(pin+"\n"), 0o600, false); err != nil {
			return err
		}
	}
	return nil
}

// envsubst is "envsubst FILE...": $NAME in them becomes the variable.
func envsubst(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

func makeIdentities(dir string) (map[string]string, error) {
	made := make(map[string]string)
	for _, id := range []struct {
		name string
		newIdentity
	}{
		{"ca", newIdentity{isCA: true, commonName: "test CA"}},
		{"server", newIdentity{dns: []string{"localhost"}}},
		{"server2", newIdentity{dns: []string{"localhost"}}},
		{"admin", newIdentity{}},
		{"app", newIdentity{}},
	} {
		id.keyFile, id.certFile = filepath.Join(dir, id.name+".key"), filepath.Join(dir, id.name+".crt")
		if id.name != "ca" {
			id.caFile, id.caKeyFile = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
		}
		result, err := id.run(time.Now())
		if err != nil {
			return nil, err
		}
		made[id.name] = string(result.Identity)
	}
	return made, nil
}

const patience = 20 * time.Second

// start is "server ARGUMENTS": it starts a server that listens on a free port,
// which it puts into KEYGATE_SERVER.
func (o *operator) start(ts *testscript.TestScript, _ bool, args []string) {
	o.log = ts.MkAbs("server.log")
	log, err := os.Create(o.log)
	ts.Check(err)
	defer log.Close()
	cmd := exec.Command("keygate", append([]string{"server", "--addr", "localhost:0"}, args...)...)
	cmd.Dir, cmd.Stderr = ts.Getenv("WORK"), log
	for _, name := range []string{softhsm.ConfEnv, "GODEBUG", "HOME", "GORACE", "KEYGATE_PIN"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	pin, err := os.Open(ts.MkAbs("pin"))
	ts.Check(err)
	defer pin.Close()
	cmd.ExtraFiles = []*os.File{pin} // is descriptor 3
	if ts.Getenv("STDOUT") == "broken" {
		r, w, err := os.Pipe()
		ts.Check(err)
		ts.Check(r.Close())
		defer w.Close()
		cmd.Stdout = w
	}
	ts.Check(cmd.Start())
	done := make(chan struct{})
	o.cmd, o.done = cmd, done
	go func() {
		cmd.Wait()
		close(done)
	}()
	ts.Defer(func() {
		cmd.Process.Kill()
		<-done
	})
	var entry struct {
		Address string `json:"address"`
	}
	ts.Check(json.Unmarshal(o.await(ts, `"msg":"keygate: listening"`), &entry))
	_, port, err := net.SplitHostPort(entry.Address)
	ts.Check(err)
	ts.Setenv("KEYGATE_SERVER", "localhost:"+port)
}

// await returns the first line of the log that matches.
func (o *operator) await(ts *testscript.TestScript, pattern string) []byte {
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for line := range bytes.Lines(o.read(ts)) {
			if re.Match(line) && bytes.HasSuffix(line, []byte("\n")) {
				return line
			}
		}
		select {
		case <-o.done:
			if !re.Match(o.read(ts)) {
				ts.Fatalf("the server ended: %v\n%s", o.cmd.ProcessState, o.read(ts))
			}
		default:
		}
	}
	ts.Fatalf("the log has no %s after %v\n%s", pattern, patience, o.read(ts))
	return nil
}

func (o *operator) read(ts *testscript.TestScript) []byte {
	text, err := os.ReadFile(o.log)
	ts.Check(err)
	return text
}

// signal is "signal HUP", "signal TERM", "signal INT" or "signal KILL".
func (o *operator) signal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL}
	ts.Check(o.cmd.Process.Signal(signals[args[0]]))
}

// stopped waits for the end of the server, with exit code 0.
func (o *operator) stopped(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case <-o.done:
	case <-time.After(patience):
		ts.Fatalf("the server has not ended after %v", patience)
	}
	if code := o.cmd.ProcessState.ExitCode(); code != 0 {
		ts.Fatalf("exit code %d\n%s", code, o.read(ts))
	}
}

// logged is "logged REGEXP": it waits until a line of the log matches.
// "! logged REGEXP" looks once.
func (o *operator) logged(ts *testscript.TestScript, neg bool, args []string) {
	if !neg {
		o.await(ts, args[0])
	} else if regexp.MustCompile(args[0]).Match(o.read(ts)) {
		ts.Fatalf("the log has %s:\n%s", args[0], o.read(ts))
	}
}

// hidden is "hidden TEXT": it fails if what others can see of the server has
// the text in it, or if the server could leave a core.
func (o *operator) hidden(ts *testscript.TestScript, _ bool, args []string) {
	proc := fmt.Sprintf("/proc/%d/", o.cmd.Process.Pid)
	for _, name := range []string{proc + "cmdline", proc + "environ", proc + "status", o.log} {
		text, err := os.ReadFile(name)
		if errors.Is(err, os.ErrPermission) {
			continue // the process is not dumpable, and the test is not root
		}
		ts.Check(err)
		if len(text) == 0 {
			ts.Fatalf("%s is empty", name)
		}
		if bytes.Contains(text, []byte(args[0])) {
			ts.Fatalf("%s has %s in it", name, args[0])
		}
	}
	limits, err := os.ReadFile(proc + "limits")
	ts.Check(err)
	if !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
		ts.Fatalf("the server can leave a core:\n%s", limits)
	}
}
