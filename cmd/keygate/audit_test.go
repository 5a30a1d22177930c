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
	r := audit.Verification{Keys: []audit.KeyUse{{ID: "ab"}}, Problems: []audit.Problem{{File: "audit.log" + evil, Line: 1, Text: "x" + evil}}}
	var out bytes.Buffer
	check(t, printResult(&out, false, nil, func(w io.Writer) { describeVerification(w, []string{"sign" + evil}, r) }))
	if i := strings.IndexFunc(out.String(), func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); i >= 0 {
		t.Errorf("a character that is not printable, at %d of %q", i, &out)
	}
	if !strings.HasSuffix(out.String(), "nothing is known.\n") {
		t.Errorf("the verdict is not last in %q", &out)
	}
}
