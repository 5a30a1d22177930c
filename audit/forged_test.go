package audit_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode"
)

// What a forged line says gets into what the verifier says only as printable text:
// a terminal would do what an escape sequence tells it, such as to hide the verdict.
func TestAU09_WhatAForgedLineSaysIsShownAsText(t *testing.T) {
	key := newSigner(t)
	text := signedRun(t, key)
	const evil = `\u001b[2J\u001b[8m\u009b2J\u202e\r\n`
	zeros, long := strings.Repeat("0", 64), strings.Repeat("x", 1<<20)
	for name, forged := range map[string]string{
		"key of a checkpoint": `{"operation":"audit:checkpoint","checkpoint":{"log":"a","sequence":9,"lines":1,"value":"` + zeros + `","key":"` + evil + `"}}`,
		"a long one":          `{"operation":"audit:checkpoint","checkpoint":{"log":"a","sequence":9,"lines":1,"value":"` + zeros + `","key":"` + long + `"}}`,
		"a chain goes on":     `{"operation":"audit:chain","chain":{"log":"` + evil + `","lines":7,"value":"` + zeros + `"}}`,
		"a chain begins":      `{"operation":"audit:chain","chain":{"log":"` + evil + `","lines":0,"value":"` + zeros + `"}}`,
	} {
		r := verify(t, key, append(bytes.Clone(text), forged+"\n"...))
		if r.OK || len(r.Problems) == 0 {
			t.Errorf("%s: not found: %+v", name, r)
		}
		said := fmt.Sprintf("%+v", r)
		if i := strings.IndexFunc(said, func(c rune) bool { return !unicode.IsPrint(c) }); i >= 0 || len(said) > 10_000 {
			t.Errorf("%s: %d bytes, not printable from %d on: %.300q", name, len(said), i, said)
		}
	}
}
