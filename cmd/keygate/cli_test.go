package main

import (
	"io/fs"
	"os"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestCLI runs the client commands as their users do.
func TestCLI(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Files: scripts(t, "testdata/cli_*.txt"),
		Cmds:  map[string]func(*testscript.TestScript, bool, []string){"mode": checkMode},
	})
}

func scripts(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := fs.Glob(os.DirFS("."), pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts %s (%v)", pattern, err)
	}
	return files
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
