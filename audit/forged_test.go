package audit_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/keygate/keygate/audit"
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

// An entry that was added without a line break at the end of a file, where grep and jq
// read it as any other, is found: it is no line of the chain.
func TestAU09_AnEntryWithoutALineBreakIsFound(t *testing.T) {
	key := newSigner(t)
	texts := rotated(t, key, 3)
	whole := verify(t, key, texts...)
	if !whole.OK {
		t.Fatalf("untouched: %+v", whole)
	}
	forged := entry(99).AppendJSON(nil)
	for i := range 2 {
		changed := append([][]byte(nil), texts...)
		changed[i] = append(bytes.Clone(texts[i]), forged...)
		r := verify(t, key, changed...)
		if r.OK || r.Lines != whole.Lines+1 || len(r.Problems) != 1 || r.Problems[0].File != fmt.Sprint("file ", i) ||
			r.Problems[0].Line != bytes.Count(texts[i], []byte("\n"))+1 {
			t.Errorf("added to file %d: %+v", i, r)
		}
	}
	last := append([][]byte(nil), texts...)
	last[2] = append(bytes.Clone(texts[2]), forged...)
	if r := verify(t, key, last...); !r.OK || r.Lines != whole.Lines+1 || r.After != whole.After+1 || r.Covered != whole.Covered {
		t.Errorf("added to the last file, where no checkpoint covers it yet: %+v", r)
	}
	if r := verify(t, key, forged); r.OK || r.Lines != 1 || r.Before != 1 {
		t.Errorf("alone: %+v", r)
	}
}

// A line that was begun in one file and could not be ended there is whole in the next:
// the piece is no tampering. An empty file between the two changes nothing.
func TestAU09_APieceThatTheNextFileHasWholeIsNone(t *testing.T) {
	key := newSigner(t)
	texts := rotated(t, key, 2)
	whole := verify(t, key, texts...)
	second := bytes.SplitAfter(texts[1], []byte("\n"))[1] // the first says where the chain stands
	for _, n := range []int{1, len(second) / 2, len(second) - 1} {
		torn := append(bytes.Clone(texts[0]), second[:n]...)
		for _, files := range [][][]byte{{torn, texts[1]}, {torn, nil, texts[1]}} {
			if r := verify(t, key, files...); !r.OK || r.Lines != whole.Lines || r.Covered != whole.Covered {
				t.Errorf("%d bytes: %+v", n, r)
			}
		}
	}
	third := bytes.SplitAfter(texts[1], []byte("\n"))[2]
	if r := verify(t, key, append(bytes.Clone(texts[0]), third[:len(third)-1]...), texts[1]); r.OK {
		t.Errorf("an entry of the next file, which is not its first: %+v", r)
	}
	torn := append(bytes.Clone(texts[0]), second[:9]...)
	if r := verify(t, key, torn, second[:12], texts[1]); !r.OK || r.Lines != whole.Lines {
		t.Errorf("the second file took no whole line, either: %+v", r)
	}
	if r := verify(t, key, torn, third[:len(third)-1], texts[1]); r.OK || len(r.Problems) != 1 {
		t.Errorf("the second file has a piece of another line: %+v", r)
	}
}

// Each of several tokens may have a key pair of its own: a checkpoint is good if one of
// the keys has signed it.
func TestAU09_EachOfSeveralKeysIsGood(t *testing.T) {
	one, two := newSigner(t), newSigner(t)
	text, _ := runs(t, one, 1)
	more, _ := runs(t, two, 1)
	v, err := audit.NewVerifier(two.Public(), one.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range [][]byte{text, more} {
		if err := v.File("file", bytes.NewReader(file)); err != nil {
			t.Fatal(err)
		}
	}
	r := v.Result()
	if len(r.Problems) != 0 || len(r.Keys) != 2 || r.Keys[0].Checkpoints == 0 || r.Keys[1].Checkpoints == 0 || r.Keys[0].Checkpoints+r.Keys[1].Checkpoints != r.Checkpoints {
		t.Errorf("%+v", r)
	}
	if r := verify(t, one, text, more); r.OK || len(r.Keys) != 1 || r.Keys[0].Checkpoints == 0 {
		t.Errorf("with one key: %+v", r)
	}
	if _, err := audit.NewVerifier(); err == nil {
		t.Error("without a key: no error")
	}
	if _, err := audit.NewVerifier(one.Public(), one.Public()); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("a key twice: %v", err)
	}
}
