package audit_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keygate/keygate/audit"
)

// runs returns what one run of a gateway after another has written to a file.
func runs(t *testing.T, key *switchedKey, n int) (text []byte, ends []int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit.log")
	for i := range n {
		l := signedLog(t, file, key, 0)
		writeEntries(t, l, i*20, i*20+20)
		closeLog(t, l)
		text = contents(t, file)
		ends = append(ends, len(text))
	}
	return text, ends
}

// Lines that were put at the beginning of a file are not covered by what the file's
// checkpoints say of the lines of the log.
func TestAU09_LinesBeforeTheFirstOfAFileAreNotCovered(t *testing.T) {
	key := newSigner(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	l := signedLog(t, file, key, 0)
	writeEntries(t, l, 0, 10)
	if err := errors.Join(os.Rename(file, file+".0"), l.Reopen()); err != nil {
		t.Fatal(err)
	}
	writeEntries(t, l, 10, 20)
	closeLog(t, l)
	text := contents(t, file)
	whole := verify(t, key, text)
	if !whole.OK || whole.Covered == 0 {
		t.Fatalf("%+v", whole)
	}
	forged := entry(99).AppendJSON(nil)
	forged = append(forged, '\n')
	if r := verify(t, key, append(bytes.Repeat(forged, 3), text...)); r.OK || r.Covered != whole.Covered {
		t.Errorf("three lines were forged: %+v", r)
	}
}

// The lines of a run whose chain was taken out are not those from before the log was
// signed: the next run has said what stood there.
func TestAU09_TheLinesOfARunCannotBeMadeUnsigned(t *testing.T) {
	key := newSigner(t)
	text, ends := runs(t, key, 2)
	if r := verify(t, key, text); !r.OK {
		t.Fatalf("untouched: %+v", r)
	}
	first, second := text[:ends[0]], text[ends[0]:]
	var stripped []byte
	for line := range bytes.Lines(first) {
		if !bytes.Contains(line, []byte(`"operation":"audit:`)) {
			stripped = append(stripped, line...)
		}
	}
	for name, before := range map[string][]byte{
		"without its chain": stripped,
		"changed":           bytes.ReplaceAll(stripped, []byte(`"outcome":"ok"`), []byte(`"outcome":"no"`)),
		"taken away":        nil,
		"replaced":          append(entry(99).AppendJSON(nil), '\n'),
	} {
		if r := verify(t, key, append(bytes.Clone(before), second...)); r.OK {
			t.Errorf("the first run %s: %+v", name, r)
		}
	}
}

// A log that was rotated while the gateway was down is as it was written.
func TestAU09_ARotationBetweenTwoRunsIsNoTampering(t *testing.T) {
	key := newSigner(t)
	texts := separateRuns(t, key, 3)
	if r := verify(t, key, texts...); !r.OK || r.Covered != r.Lines-1 {
		t.Errorf("%+v", r)
	}
	// What a process that was killed has left is known to nobody.
	file := filepath.Join(t.TempDir(), "audit.log")
	killed := open(t, audit.Config{File: file, Checkpoint: audit.CheckpointConfig{Key: "k"}})
	writeEntries(t, killed, 0, 5)
	left := rename(t, file)
	next := separateRun(t, file, key)
	if r := verify(t, key, left, next); r.OK || len(r.Problems) != 1 || len(r.Unlinked) != 0 {
		t.Errorf("killed: %+v", r)
	}
	killed.Close()
}

// A process that ended in the middle of a line, as when the disk is full or the power
// fails, is no tampering: the next one has signed the piece with all before it.
func TestAU09_APieceOfALineIsNoTampering(t *testing.T) {
	key := newSigner(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	killed := open(t, audit.Config{File: file, Checkpoint: audit.CheckpointConfig{Key: "k"}})
	writeEntries(t, killed, 0, 5)
	whole := contents(t, file)
	torn := append(bytes.Clone(whole), whole[:len(whole)/7]...)
	torn = torn[:len(whole)+40]
	if err := os.WriteFile(file, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	l := signedLog(t, file, key, 0)
	writeEntries(t, l, 5, 10)
	closeLog(t, l)
	text := contents(t, file)
	if r := verify(t, key, text); !r.OK || r.Covered != r.Lines-1 {
		t.Errorf("%+v", r)
	}
	changed := bytes.Clone(text)
	changed[len(torn)-3] ^= 1
	if r := verify(t, key, changed); r.OK {
		t.Errorf("the piece was changed: %+v", r)
	}
	killed.Close()
}
