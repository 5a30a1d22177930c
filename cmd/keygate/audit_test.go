package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"unicode"

	"github.com/keygate/keygate/audit"
)

// Neither what a log says nor the name of its file reaches the terminal as anything but
// printable text.
func TestAU09_AVerdictCannotBeHiddenByEscapeSequences(t *testing.T) {
	const evil = "\x1b[2J\x1b[8m\u009b2J\r\n\t\x07"
	lines := []audit.Problem{{File: "audit.log" + evil, Line: 1, Text: "x" + evil}}
	r := audit.Verification{Keys: []audit.KeyUse{{ID: "ab"}}, Follows: evil, Problems: lines, Unlinked: lines}
	var out bytes.Buffer
	check(t, printResult(&out, false, nil, func(w io.Writer) { describeVerification(w, []string{"sign" + evil}, r) }))
	if i := strings.IndexFunc(out.String(), func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); i >= 0 {
		t.Errorf("a character that is not printable, at %d of %q", i, &out)
	}
	if !strings.HasSuffix(out.String(), "nothing is known.\n") {
		t.Errorf("the verdict is not last in %q", &out)
	}
}

func TestUnlinkedIsANumberOrAny(t *testing.T) {
	for text, want := range map[string]unlinkedFlag{"0": 0, "12": 12, "any": -1} {
		var f unlinkedFlag
		if err := f.Set(text); err != nil || f != want || f.String() != text {
			t.Errorf("%s is %d (%s), %v", text, f, &f, err)
		}
	}
	for _, text := range []string{"", "-1", "all", "1e3"} {
		if err := new(unlinkedFlag).Set(text); err == nil {
			t.Errorf("%q was taken", text)
		}
	}
}
