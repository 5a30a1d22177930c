// Package hsmtest opens roots of trust in SoftHSM2 tokens for the tests of
// other packages. Without SoftHSM a test that uses it is skipped, or fails if
// the environment variable CI is true.
package hsmtest

import (
	"log/slog"
	"testing"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// Root returns a root in a new token. It is closed when the test ends.
func Root(tb testing.TB) kms.Root {
	tb.Helper()
	return Open(tb, Config(tb))
}

// Open opens the root that cfg names. It is closed when the test ends.
func Open(tb testing.TB, cfg hsm.Config) *hsm.Root {
	tb.Helper()
	r, err := hsm.Open(tb.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Error(err)
		}
	})
	return r
}

// Config returns the configuration of a root in a new token that has its root
// keys, with the PIN in a file. A child process that uses it needs the value
// that SOFTHSM2_CONF has in this one.
func Config(tb testing.TB) hsm.Config {
	tb.Helper()
	cfg := Empty(tb)
	if _, err := hsm.Init(tb.Context(), cfg); err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// Empty is Config without root keys in the token.
func Empty(tb testing.TB) hsm.Config {
	tb.Helper()
	f := softhsm.Token(tb)
	return hsm.Config{Module: f.Module, Token: f.Label, PIN: hsm.PIN{File: f.PINFile}}
}
