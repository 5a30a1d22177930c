package soak_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A token is one of SoftHSM with a module of its own (testdata/token.c), whose
// calls are counted and can be made to fail.
type token struct {
	t       *testing.T
	module  string
	control *os.File
}

// The layout of the control file (hsm/testdata/shim.c): an entry for each
// function, of words of 8 bytes.
const (
	controlFunctions = 68
	controlEntry     = 80
	atCalls          = 0
	atAnswer         = 8
	atTimes          = 16
	atSleep          = 32 // before each call, in milliseconds
)

// The places of functions in CK_FUNCTION_LIST (PKCS#11 v2.40).
const (
	cGetSlotList   = 4 // the first that can be made to fail: those before begin and end the module
	cOpenSession   = 12
	cCloseSession  = 13
	cLogin         = 18
	cDestroyObject = 22
	cEncrypt       = 30
)

// label is that of all tokens, which are copies of one.
const label = "soak"

// makeTokens makes the first token with its root keys, and copies of its files for
// the others, as cloning by an HSM's maker does.
func (g *gateway) makeTokens() {
	g.t.Helper()
	check(g.t, os.WriteFile(g.path("pin"), []byte("69a3b1"), 0o600))
	check(g.t, os.WriteFile(g.path("so-pin"), []byte("8b2270"), 0o600))
	soft := module(g.t)
	for i := range g.options.tokens {
		g.tokens = append(g.tokens, g.makeToken(i, soft))
	}
	first := &gateway{t: g.t, dir: g.dir, options: g.options, tokens: g.tokens[:1]}
	first.options.tokens, first.options.isolation = 1, ""
	first.configure(policies(false))
	first.run("hsm", "init", "--make-token", "--so-pin-file", "so-pin")
	for i := 1; i < len(g.tokens); i++ {
		check(g.t, os.CopyFS(g.path(tokenDir(i)), os.DirFS(g.path(tokenDir(0)))))
	}
}

func tokenDir(i int) string { return fmt.Sprintf("token-%d", i) }

// makeToken makes the module of a token, and the first one's empty directory.
func (g *gateway) makeToken(i int, soft string) *token {
	g.t.Helper()
	file := func(ending string) string { return g.path(tokenDir(i) + ending) }
	if i == 0 {
		check(g.t, os.Mkdir(g.path(tokenDir(0)), 0o700))
	}
	conf := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", g.path(tokenDir(i)))
	check(g.t, os.WriteFile(file(".conf"), []byte(conf), 0o600))
	library, err := os.ReadFile(soft)
	check(g.t, err)
	check(g.t, os.WriteFile(file(".softhsm.so"), library, 0o700))
	tk := &token{t: g.t, module: file(".so")}
	tk.control, err = os.Create(file(".control"))
	check(g.t, err)
	g.t.Cleanup(func() { tk.control.Close() })
	check(g.t, tk.control.Truncate(controlFunctions*controlEntry))
	set := func(name, path string) string { return fmt.Sprintf("-D%s=%q", name, path) }
	out, err := exec.Command("cc", "-O1", "-shared", "-fPIC", "-o", tk.module, set("MODULE", file(".softhsm.so")), set("CONTROL", file(".control")),
		set("CONF", file(".conf")), set("LOCK", g.path("token.lock")), filepath.Join("testdata", "token.c"), "-ldl").CombinedOutput()
	if err != nil {
		g.t.Fatalf("cc: %v: %s", err, out)
	}
	return tk
}

// root is the rest of the section root.pkcs11: which tokens there are.
func (g *gateway) root() string {
	var b strings.Builder
	if g.options.isolation != "" {
		fmt.Fprintf(&b, "    isolation: %s\n", g.options.isolation)
	}
	if len(g.tokens) == 1 {
		fmt.Fprintf(&b, "    module: %q\n    token: %s\n", g.tokens[0].module, label)
		return b.String()
	}
	b.WriteString("    tokens:\n")
	for _, t := range g.tokens {
		fmt.Fprintf(&b, "      - {module: %q, token: %s}\n", t.module, label)
	}
	return b.String()
}

// calls returns how often a function was called, ever, by all processes.
func (k *token) calls(function int) uint64 {
	b := make([]byte, 8)
	if _, err := k.control.ReadAt(b, int64(function)*controlEntry+atCalls); err != nil {
		k.t.Error(err)
	}
	return binary.NativeEndian.Uint64(b)
}

// calls returns how often a function of any token was called.
func (g *gateway) calls(function int) uint64 {
	var n uint64
	for _, t := range g.tokens {
		n += t.calls(function)
	}
	return n
}

// sessions returns how many sessions are open: as long as none ends but by
// C_CloseSession.
func (g *gateway) sessions() int { return int(g.calls(cOpenSession)) - int(g.calls(cCloseSession)) }

// fails has all functions of the token's module, but those that begin and end it,
// answer a code; 0 heals.
func (k *token) fails(code uint64) {
	times := int64(-1)
	if code == 0 {
		times = 0
	}
	for i := int64(cGetSlotList); i < controlFunctions; i++ {
		k.write(i*controlEntry+atAnswer, code)
		k.write(i*controlEntry+atTimes, uint64(times))
	}
}

func (k *token) write(offset int64, value uint64) {
	if _, err := k.control.WriteAt(binary.NativeEndian.AppendUint64(nil, value), offset); err != nil {
		k.t.Error(err)
	}
}
