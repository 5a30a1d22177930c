package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
)

// Two tokens, each of which is fit by itself, but with root keys of their own: the
// doctor says which of them differs, and that all is not well.
func TestHS16_DoctorOfTokensWithOtherRootKeysIsNoSuccess(t *testing.T) {
	one, two := hsmtest.Config(t), hsmtest.Config(t)
	cfg := hsm.Config{Module: one.Module, Tokens: []hsm.TokenConfig{{Token: one.Token, PIN: &one.PIN}, {Token: two.Token, PIN: &two.PIN}}}
	for _, asJSON := range []bool{false, true} {
		var out strings.Builder
		if err := examine(t.Context(), &out, cfg, hsm.Examination{}, asJSON); !errors.Is(err, errReported) {
			t.Errorf("it ends with %v", err)
		}
		if n := strings.Count(out.String(), "another record key"); n != 1 || !strings.Contains(out.String(), `token \"`+two.Token) && !strings.Contains(out.String(), `token "`+two.Token) {
			t.Errorf("it says %d times which token differs: %s", n, out.String())
		}
	}
}
