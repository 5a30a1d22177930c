package soak_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/softhsm"
)

// A token is one of SoftHSM, in a copy of its library that no other token has,
// behind a shim that counts calls and makes them fail.
type token struct {
	t       *testing.T
	fixture softhsm.Fixture
	module  string
	control *p11shim.Control
}

// makeTokens makes the first token, with its root keys, and clones of it.
func (g *gateway) makeTokens() {
	g.t.Helper()
	first := newToken(g.t, softhsm.Token(g.t))
	g.tokens = []*token{first}
	g.conf = first.fixture.Conf
	alone := *g
	alone.options.isolation = ""
	alone.configure(policies(false))
	alone.run("hsm", "init")
	for range g.options.tokens - 1 {
		g.tokens = append(g.tokens, newToken(g.t, softhsm.Clone(g.t, first.fixture)))
	}
}

func newToken(t *testing.T, f softhsm.Fixture) *token {
	t.Helper()
	dir := t.TempDir()
	control, err := p11shim.NewControl(dir+"/control", softhsm.CopyOfModule(t, f))
	check(t, err)
	t.Cleanup(func() { control.Close() })
	module, err := control.Build(dir)
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	check(t, err)
	return &token{t: t, fixture: f, module: module, control: control}
}

// root is the rest of the section root.pkcs11: which tokens there are.
func (g *gateway) root() string {
	var b strings.Builder
	if g.options.isolation != "" {
		fmt.Fprintf(&b, "    isolation: %s\n", g.options.isolation)
	}
	fmt.Fprintf(&b, "    pin: {file: %q}\n", g.tokens[0].fixture.PINFile)
	if len(g.tokens) == 1 {
		fmt.Fprintf(&b, "    module: %q\n    token: %s\n", g.tokens[0].module, g.tokens[0].fixture.Label)
		return b.String()
	}
	b.WriteString("    tokens:\n")
	for _, t := range g.tokens {
		fmt.Fprintf(&b, "      - {module: %q, token: %s}\n", t.module, t.fixture.Label)
	}
	return b.String()
}

// calls returns how often a function of any token was called, by all processes.
func (g *gateway) calls(function string) (n uint64) {
	for _, t := range g.tokens {
		one, err := t.control.Calls(function)
		if err != nil {
			g.t.Error(err)
		}
		n += uint64(one)
	}
	return n
}

// sessions returns how many sessions are open: as long as none ends but by
// C_CloseSession.
func (g *gateway) sessions() int {
	return int(g.calls("C_OpenSession")) - int(g.calls("C_CloseSession"))
}

// unplug makes a token answer as if it were no longer there, until it is plugged in.
func (k *token) unplug() error {
	for _, function := range p11shim.Functions[4:] { // but those that begin and end a module
		f := p11shim.Fault{Code: pkcs11.CKR_TOKEN_NOT_PRESENT, Times: p11shim.Forever}
		if function == "C_GetSlotList" {
			f.Code = pkcs11.CKR_OK // of no slots
		}
		if err := k.control.Fail(function, f); err != nil {
			return err
		}
	}
	return nil
}

func (k *token) plugIn() error { return k.control.Heal() }
