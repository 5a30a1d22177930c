package clustertest

import (
	"slices"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/kms"
)

// TestInvariants: the check of histories finds what breaks each rule, and nothing in
// what is right.
func TestInvariants(t *testing.T) {
	one, two := kms.KeyID{1}, kms.KeyID{2}
	// at makes a call that takes a tenth of a second.
	at := func(seconds float64, op string, id kms.KeyID, err error) call {
		began := time.Duration(seconds * float64(time.Second))
		return call{op: op, began: began, ended: began + time.Second/10, id: id, err: err, mode: envelope.Branch, enabled: op == "describe" && err == nil}
	}
	direct := func(c call) call { c.mode = envelope.Direct; return c }
	wrong := func(c call) call { c.wrong = true; return c }
	none := kms.KeyID{}
	for name, test := range map[string]struct {
		rule  string // "" if all is right
		calls []call
	}{
		"a life": {"", []call{
			at(0, "describe", none, kms.ErrKeyNotFound), at(1, "create", one, nil), at(1.05, "create", none, kms.ErrKeyExists),
			at(2, "generate", one, nil), at(3, "decrypt", one, nil), at(3.5, "decrypt", none, kms.ErrUnavailable),
			at(4, "delete", one, nil), at(9, "decrypt", one, nil), at(9.2, "decrypt", none, kms.ErrPendingDeletion),
		}},
		"two creates":                     {"created again", []call{at(0, "create", one, nil), at(1, "create", one, nil)}},
		"two ids":                         {"another id", []call{at(0, "create", one, nil), at(1, "generate", two, nil)}},
		"an id after a delete":            {"another id", []call{at(0, "create", one, nil), at(1, "delete", one, nil), at(9, "create", two, nil)}},
		"another plaintext":               {"opened to something else", []call{at(0, "create", one, nil), wrong(at(1, "decrypt", one, nil))}},
		"a ciphertext that does not open": {"no answer that may be", []call{at(0, "create", one, nil), at(1, "decrypt", one, kms.ErrCiphertext)}},
		"an alarm":                        {"no answer that may be", []call{at(0, "create", one, nil), at(1, "describe", one, kms.ErrCorrupt)}},
		"a key that is lost":              {"lost", []call{at(0, "create", one, nil), at(1, "decrypt", none, kms.ErrKeyNotFound)}},
		"a delete before it began":        {"pending deletion before its delete", []call{at(0, "create", one, nil), at(1, "generate", one, kms.ErrPendingDeletion), at(2, "delete", one, nil)}},
		"no delete at all":                {"pending deletion before its delete", []call{at(0, "create", one, nil), at(1, "generate", one, kms.ErrPendingDeletion)}},
		"use after a delete":              {"of use after its delete", []call{at(0, "create", one, nil), at(1, "delete", one, nil), at(6.2, "generate", one, nil)}},
		"enabled after a delete":          {"of use after its delete", []call{at(0, "create", one, nil), at(1, "delete", one, nil), at(6.2, "describe", one, nil)}},
		"a mode that was set":             {"", []call{at(0, "create", one, nil), direct(at(1, "direct", one, nil)), at(6, "generate", one, nil), direct(at(7, "generate", one, nil))}},
		"a mode that was not set":         {"made in a mode of before", []call{at(0, "create", one, nil), direct(at(1, "generate", one, nil))}},
		"a mode of before":                {"made in a mode of before", []call{at(0, "create", one, nil), direct(at(1, "direct", one, nil)), at(6.2, "generate", one, nil)}},
		"a mode that may have been set":   {"", []call{at(0, "create", one, nil), at(1, "direct", none, kms.ErrUnavailable), direct(at(20, "generate", one, nil)), at(21, "generate", one, nil)}},
	} {
		t.Run(name, func(t *testing.T) {
			var rules []string
			for _, v := range (&history{calls: test.calls}).violations() {
				rules = append(rules, v.rule)
			}
			var want []string
			if test.rule != "" {
				want = []string{test.rule}
			}
			if !slices.Equal(rules, want) {
				t.Errorf("got %q, want %q", rules, want)
			}
		})
	}
}
