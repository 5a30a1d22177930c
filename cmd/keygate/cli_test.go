package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestCLI runs the client commands as their users do. A script that says
// "gateway" gets one of its own.
func TestCLI(t *testing.T) {
	files, err := filepath.Glob("testdata/cli_*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts (%v)", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			runScript(t, file)
		})
	}
}

type scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string)

func runScript(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	check(t, err)
	cmds := scriptCommands{"mode": checkMode, "field": writeField}
	if bytes.Contains(text, []byte("\ngateway\n")) {
		g := startGateway(t, t.TempDir())
		cmds["gateway"] = g.use
		cmds["streaming"] = g.waitForStreams
		cmds["store"] = g.switchStore
	}
	testscript.Run(t, testscript.Params{Files: []string{file}, Cmds: cmds, Setup: func(env *testscript.Env) error {
		env.Vars = append(env.Vars, noRaceSleep)
		return nil
	}})
}

// noRaceSleep spares each command the second that the race detector sleeps at
// the end of a process.
const noRaceSleep = "GORACE=atexit_sleep_ms=0"

// use is "gateway": the script calls the gateway as its admin.
func (g *testGateway) use(ts *testscript.TestScript, _ bool, _ []string) {
	for _, name := range []string{"ca.crt", "admin.crt", "admin.key", "app.crt", "app.key"} {
		b, err := os.ReadFile(filepath.Join(g.dir, name))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(name), b, 0o600))
	}
	for name, value := range map[string]string{
		"KEYGATE_SERVER":      g.address,
		"KEYGATE_CACERT":      "ca.crt",
		"KEYGATE_CLIENT_CERT": "admin.crt",
		"KEYGATE_CLIENT_KEY":  "admin.key",
	} {
		ts.Setenv(name, value)
	}
}

// waitForStreams is "streaming N": it waits until N log streams were asked for.
// Each is in the audit log just before it begins.
func (g *testGateway) waitForStreams(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		trail, err := os.ReadFile(filepath.Join(g.dir, "audit.log"))
		ts.Check(err)
		if n := bytes.Count(trail, []byte(`"log:`)); n == want {
			break
		} else if time.Now().After(end) {
			ts.Fatalf("%d log streams were asked for, not %d", n, want)
		}
	}
	time.Sleep(200 * time.Millisecond)
}

// switchStore is "store up" and "store down".
func (g *testGateway) switchStore(_ *testscript.TestScript, _ bool, args []string) {
	g.store.down.Store(args[0] == "down")
}

// checkMode is "mode 0600 FILE".
func checkMode(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.ParseUint(args[0], 8, 32)
	ts.Check(err)
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := info.Mode().Perm(); (got == fs.FileMode(want)) == neg {
		ts.Fatalf("%s has mode %#o", args[1], got)
	}
}

// writeField is "field JSON NAME FILE": it writes a field of a JSON object, and
// a newline, to a file.
func writeField(ts *testscript.TestScript, _ bool, args []string) {
	var object map[string]string
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &object))
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(object[args[1]]+"\n"), 0o600))
}
