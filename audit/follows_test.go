package audit_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/keygate/keygate/audit"
)

// rename rotates a log that no gateway has open, and returns what it holds.
func rename(t *testing.T, file string) []byte {
	t.Helper()
	text := contents(t, file)
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	return text
}

// separateRun returns what one run of a gateway writes to a log, which is rotated then.
// It has two checkpoints: of its first line, and of the 20 entries.
func separateRun(t *testing.T, file string, key crypto.Signer) []byte {
	t.Helper()
	l := signedLog(t, file, key, 0)
	eventually(t, "the first checkpoint", func() bool { return l.Stats().Checkpoints > 0 })
	writeEntries(t, l, 0, 20)
	closeLog(t, l)
	return rename(t, file)
}

// separateRuns returns the files of so many runs, each in one of its own.
func separateRuns(t *testing.T, key crypto.Signer, n int) (texts [][]byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit.log")
	for range n {
		texts = append(texts, separateRun(t, file, key))
	}
	return texts
}

func markOf(file string) string {
	return filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+".chain")
}

// cutAfter returns text up to the last line that has what.
func cutAfter(text []byte, what string) []byte {
	at := bytes.LastIndex(text, []byte(what))
	return text[:at+bytes.IndexByte(text[at:], '\n')+1]
}

func cutBefore(text []byte, what string) []byte {
	return text[:bytes.LastIndexByte(text[:bytes.LastIndex(text, []byte(what))], '\n')+1]
}

// Each run says which was before it, and how far that had come: a run that is gone, cut
// or elsewhere is found, though each has a file and a chain of its own.
func TestAU09_ARunThatIsNotWhereItWasIsFound(t *testing.T) {
	key := newSigner(t)
	texts := separateRuns(t, key, 3)
	a, b, c := texts[0], texts[1], texts[2]
	whole := verify(t, key, a, b, c)
	if !whole.OK || whole.Follows != "" || whole.Covered != whole.Lines-1 || len(whole.Unlinked) != 0 {
		t.Fatalf("untouched: %+v", whole)
	}
	const checkpoint = `"operation":"audit:checkpoint"`
	var stripped []byte
	for line := range bytes.Lines(a) {
		if !bytes.Contains(line, []byte(`"operation":"audit:`)) {
			stripped = append(stripped, line...)
		}
	}
	forged := append(entry(99).AppendJSON(nil), '\n')
	for name, x := range map[string]struct {
		files [][]byte
		want  string
	}{
		"the middle one is gone":              {[][]byte{a, c}, "is not here"},
		"the last two are swapped":            {[][]byte{a, c, b}, "is not here"},
		"the first two are swapped":           {[][]byte{b, a, c}, "out of order"},
		"the first is here twice":             {[][]byte{a, b, a, c}, "was here before"},
		"the first is cut after a checkpoint": {[][]byte{cutAfter(cutBefore(a, checkpoint), checkpoint), b, c}, "is missing"},
		"its last checkpoint is gone":         {[][]byte{cutBefore(a, checkpoint), b, c}, "is missing"},
		"the middle is cut after its first":   {[][]byte{a, b[:bytes.IndexByte(b, '\n')+1], c}, "is missing"},
		"an entry is added to the first":      {[][]byte{append(bytes.Clone(a), forged...), b, c}, "were added"},
		"its last line is changed":            {[][]byte{append(bytes.Clone(a[:len(a)-3]), "} \n"...), b, c}, "at the end of the run"},
		"the first has no chain":              {[][]byte{stripped, b, c}, "of no run"},
		"the middle one names no other":       {[][]byte{a, withoutPrevious(b), c}, "changed"},
	} {
		r := verify(t, key, x.files...)
		if r.OK || len(r.Problems) == 0 || !strings.Contains(r.Problems[0].Text, x.want) {
			t.Errorf("%s: %+v", name, r)
		}
	}
	// That the first is gone is not found, but said.
	if r := verify(t, key, b, c); !r.OK || !strings.Contains(string(a), r.Follows) || r.Follows == "" {
		t.Errorf("without the first: %+v", r)
	}
}

// withoutPrevious takes the mark of the run before out of the line that begins a run.
func withoutPrevious(text []byte) []byte {
	from := bytes.Index(text, []byte(`,"previous":{`))
	to := from + bytes.IndexByte(text[from:], '}') + 1
	return append(bytes.Clone(text[:from]), text[to:]...)
}

// killedRun writes a run of 300 entries and more, with checkpoints, that is killed with
// the mark of its first one, or with that of its beginning. It returns how long the log
// was up to its last checkpoint.
func killedRun(t *testing.T, file string, key crypto.Signer, atBeginning bool) {
	t.Helper()
	cfg := audit.Config{File: file, Checkpoint: audit.CheckpointConfig{Key: "k", Every: time.Hour, Entries: 100}}
	l := open(t, cfg)
	kept := contents(t, markOf(file))
	if err := l.SignCheckpoints(key); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first mark", func() bool { return !bytes.Equal(kept, contents(t, markOf(file))) })
	if !atBeginning {
		kept = contents(t, markOf(file))
	}
	for done := uint64(0); done < 3; done++ {
		writeEntries(t, l, 0, 100)
		eventually(t, "a checkpoint", func() bool { return l.Stats().Checkpoints > done+1 })
	}
	closeLog(t, l)
	if err := os.WriteFile(markOf(file), kept, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A run that was killed between a checkpoint and its mark is known to the next only up to
// an earlier one: what its own checkpoints cover is good all the same, and no more.
func TestAU09_AMarkMayBeBehindItsRun(t *testing.T) {
	key := newSigner(t)
	for name, atBeginning := range map[string]bool{"by its first checkpoint": false, "by its beginning": true} {
		file := filepath.Join(t.TempDir(), "audit.log")
		killedRun(t, file, key, atBeginning)
		killed := rename(t, file)
		next := separateRun(t, file, key)
		if r := verify(t, key, killed, next); !r.OK || r.Covered != r.Lines-1 {
			t.Errorf("known %s: %+v", name, r)
		}
		more := append(bytes.Clone(killed), append(entry(99).AppendJSON(nil), '\n')...)
		if r := verify(t, key, more, next); r.OK || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Text, "no checkpoint covers the 2 lines") {
			t.Errorf("known %s, with a line that no checkpoint covers: %+v", name, r)
		}
		var first []byte // with less than what the next run knows of it
		if first = killed[:bytes.IndexByte(killed, '\n')+1]; atBeginning {
			first = nil
		}
		if r := verify(t, key, first, next); atBeginning != r.OK || !atBeginning && !strings.Contains(r.Problems[0].Text, "is missing") {
			t.Errorf("known %s, cut before: %+v", name, r)
		}
	}
}

// A run that was killed before it could leave any mark, or sign anything, is passed by:
// the next one names the run before it.
func TestAU09_ARunMayBeKilledBeforeItLeavesAMark(t *testing.T) {
	key := newSigner(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	first := separateRun(t, file, key)
	kept := contents(t, markOf(file))
	for range 2 {
		killed := open(t, audit.Config{File: file, Checkpoint: audit.CheckpointConfig{Key: "k"}})
		defer killed.Close()
		if err := os.WriteFile(markOf(file), kept, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	last := separateRun(t, file, key)
	for name, files := range map[string][][]byte{"all": {first, last}, "from the killed one on": {last}} {
		if r := verify(t, key, files...); !r.OK || r.Covered+r.Before != r.Lines-1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// Lines that a run could not have signed, as its token was away to its end, are covered
// by the next one, though they are in another file: the mark is of the last of them.
func TestAU09_TheNextRunCoversWhatAnEndedOneCouldNotSign(t *testing.T) {
	key := newSigner(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	var texts [][]byte
	for range 2 {
		l := open(t, audit.Config{File: file, Checkpoint: audit.CheckpointConfig{Key: "k"}})
		writeEntries(t, l, 0, 5)
		closeLog(t, l)
		texts = append(texts, rename(t, file))
	}
	texts = append(texts, separateRun(t, file, key))
	if r := verify(t, key, texts...); !r.OK || r.Covered != r.Lines-1 {
		t.Errorf("%+v", r)
	}
	changed := bytes.Replace(texts[1], []byte(`"outcome":"ok"`), []byte(`"outcome":"no"`), 1)
	if r := verify(t, key, texts[0], changed, texts[2]); r.OK {
		t.Errorf("changed: %+v", r)
	}
}

// The beginning of a run that names none before it is counted, and an error unless it is
// allowed.
func TestAU09_RunsWithoutAWordOfTheOneBeforeAreCounted(t *testing.T) {
	key := newSigner(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	var texts [][]byte
	for _, spoil := range []func() error{
		func() error { return nil },
		func() error { return os.Remove(markOf(file)) },
		func() error { return os.WriteFile(markOf(file), []byte("{}\n"), 0o600) },
		func() error { return os.Chmod(markOf(file), 0o620) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, separateRun(t, file, key))
	}
	for allowed, want := range map[int]bool{0: false, 2: false, 3: true, -1: true} {
		v, err := audit.NewVerifier(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		v.AllowUnlinked(allowed)
		for _, text := range texts {
			if err := v.File("audit.log", bytes.NewReader(text)); err != nil {
				t.Fatal(err)
			}
		}
		if r := v.Result(); r.OK != want || len(r.Unlinked) != 3 || len(r.Problems) != 0 || r.Covered != r.Lines-1 {
			t.Errorf("%d allowed: %+v", allowed, r)
		}
	}
	// In one file the next run has signed what stood there before: that is a word.
	if err := os.Remove(markOf(file)); err != nil {
		t.Fatal(err)
	}
	l := signedLog(t, file, key, 0)
	closeLog(t, l)
	if err := os.Remove(markOf(file)); err != nil {
		t.Fatal(err)
	}
	if r := verify(t, key, separateRun(t, file, key)); !r.OK || len(r.Unlinked) != 0 {
		t.Errorf("in one file: %+v", r)
	}
}

// On standard output no run knows of another: the second of two says so.
func TestAU09_RunsOnStandardOutputAreUnlinked(t *testing.T) {
	key := newSigner(t)
	real := os.Stdout
	defer func() { os.Stdout = real }()
	var texts [][]byte
	for range 2 {
		f, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout = f
		l := signedLog(t, "", key, 0)
		writeEntries(t, l, 0, 5)
		closeLog(t, l)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, contents(t, f.Name()))
	}
	r := verify(t, key, texts...)
	if r.OK || len(r.Problems) != 0 || len(r.Unlinked) != 1 || !strings.Contains(r.Unlinked[0].Text, "standard output") {
		t.Errorf("%+v", r)
	}
}

// A mark that cannot be left holds nothing up.
func TestAU09_AMarkThatCannotBeLeftHoldsNothingUp(t *testing.T) {
	key := newSigner(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	if err := os.Mkdir(markOf(file), 0o700); err != nil {
		t.Fatal(err)
	}
	texts := [][]byte{separateRun(t, file, key), separateRun(t, file, key)}
	if r := verify(t, key, texts...); r.OK || len(r.Unlinked) != 1 || len(r.Problems) != 0 || r.Covered != r.Lines-1 {
		t.Errorf("%+v", r)
	}
}

// A mark is for its owner only, and no lines go with it that the disk does not have.
func TestAU09_AMarkIsLeftAtTheEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	separateRun(t, file, newSigner(t))
	info, err := os.Stat(markOf(file))
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	if text := contents(t, markOf(file)); !bytes.Contains(text, []byte(`"ended":true`)) {
		t.Errorf("%s", text)
	}
	plain := filepath.Join(t.TempDir(), "audit.log")
	closeLog(t, open(t, audit.Config{File: plain}))
	if _, err := os.Stat(markOf(plain)); !os.IsNotExist(err) {
		t.Errorf("a log that is not signed has left a mark: %v", err)
	}
}

// A run whose first line finds no room, and whose file is rotated before there is some,
// begins in the next file.
func TestAU09_ARunThatBeginsOnAFullDiskBeginsInTheNextFile(t *testing.T) {
	key := newSigner(t)
	d := limited(t)
	file := filepath.Join(d.dir, "audit.log")
	l := open(t, audit.Config{File: file})
	writeEntries(t, l, 0, 20) // more than fits
	closeLog(t, l)
	d.fill()
	l = open(t, audit.Config{File: file, Checkpoint: audit.CheckpointConfig{Key: "k", Every: time.Hour}})
	d.empty()
	rename(t, file)
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := l.SignCheckpoints(key); err != nil {
		t.Fatal(err)
	}
	writeEntries(t, l, 20, 40)
	closeLog(t, l)
	if r := verify(t, key, contents(t, file)); !r.OK || r.Covered != r.Lines-1 {
		t.Errorf("%+v", r)
	}
}

// verifyStored verifies the three files of a log in testdata, the last number first.
func verifyStored(t *testing.T, dir string, allowed int) audit.Verification {
	t.Helper()
	file := func(name string) []byte { return contents(t, filepath.Join("testdata", dir, name)) }
	block, _ := pem.Decode(file("sign.pub"))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	v, err := audit.NewVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	v.AllowUnlinked(allowed)
	for _, name := range []string{"audit.log.3", "audit.log.2", "audit.log.1"} {
		if err := v.File(name, bytes.NewReader(file(name))); err != nil {
			t.Fatal(err)
		}
	}
	return v.Result()
}

// A log of a release that left no marks: a run over two files, a second one in the second
// of them, and a third in a file of its own, which nothing ties to the others.
func TestAU09_ALogWithoutMarksCanBeVerified(t *testing.T) {
	for allowed, want := range []bool{false, true} {
		r := verifyStored(t, "unmarked", allowed)
		if r.OK != want || r.Lines != 28 || r.Covered != 27 || len(r.Problems) != 0 || len(r.Unlinked) != 1 || r.Unlinked[0].File != "audit.log.1" {
			t.Errorf("%d allowed: %+v", allowed, r)
		}
	}
}

// A log of a release that leaves marks, which was then rolled back and installed again: a
// run of each in the first file, and one of each in a file of its own.
func TestAU09_AReleaseWithoutMarksMayRunInBetween(t *testing.T) {
	for allowed, want := range []bool{false, true} {
		r := verifyStored(t, "rollback", allowed)
		if r.OK != want || r.Covered != r.Lines-1 || len(r.Problems) != 0 || len(r.Unlinked) != 1 || r.Unlinked[0].File != "audit.log.2" {
			t.Errorf("%d allowed: %+v", allowed, r)
		}
	}
}

// Of all ways to give some of the files of a log, in any order, only those are good that
// leave out files at the beginning or at the end: the first shows, the last cannot.
func TestAU09_OnlyFilesInTheirOrderWithoutAGapAreGood(t *testing.T) {
	key := newSigner(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	var texts [][]byte
	for range 2 { // two runs over two files each, and one in a single file
		l := signedLog(t, file, key, 0)
		eventually(t, "the first checkpoint", func() bool { return l.Stats().Checkpoints > 0 })
		writeEntries(t, l, 0, 5)
		texts = append(texts, rename(t, file))
		if err := l.Reopen(); err != nil {
			t.Fatal(err)
		}
		writeEntries(t, l, 5, 10)
		closeLog(t, l)
		texts = append(texts, rename(t, file))
	}
	texts = append(texts, separateRun(t, file, key))
	var try func(order []int)
	try = func(order []int) {
		if len(order) > 0 {
			var files [][]byte
			good := true
			for i, n := range order {
				files = append(files, texts[n])
				good = good && n == order[0]+i
			}
			r := verify(t, key, files...)
			if r.OK != good || good && (r.Follows == "") != (order[0] == 0) {
				t.Errorf("files %v: %+v", order, r)
			}
		}
		for n := range texts {
			if !slices.Contains(order, n) {
				try(append(slices.Clone(order), n))
			}
		}
	}
	try(nil)
}

// Whatever a log holds, the verifier comes to an end, counts each line once at most, and
// says nothing that is not printable.
func FuzzVerifier(f *testing.F) {
	for _, name := range []string{"audit.log.3", "audit.log.2", "audit.log.1"} {
		text, err := os.ReadFile(filepath.Join("testdata", "unmarked", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, 40)
	}
	f.Add([]byte(`{"operation":"audit:chain","chain":{"log":"`+strings.Repeat("0", 32)+`","lines":0,"before_bytes":-9223372036854775808,"value":"`+strings.Repeat("0", 64)+`",`+
		`"previous":{"log":"`+strings.Repeat("1", 32)+`","sequence":18446744073709551615,"lines":18446744073709551615,"value":"`+strings.Repeat("0", 64)+`","ended":true}}}`+"\n"), 0)
	text, err := os.ReadFile(filepath.Join("testdata", "unmarked", "sign.pub"))
	if err != nil {
		f.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		v, err := audit.NewVerifier(key)
		if err != nil {
			t.Fatal(err)
		}
		cut = min(max(cut, 0), len(text))
		for _, part := range [][]byte{text[:cut], text[cut:], text} {
			if err := v.File("file", bytes.NewReader(part)); err != nil {
				t.Fatal(err)
			}
		}
		r := v.Result()
		if r.Covered+r.Before+r.After > r.Lines || r.Covered < 0 || r.Before < 0 || r.After < 0 {
			t.Errorf("%+v", r)
		}
		for _, p := range append(r.Problems, r.Unlinked...) {
			if strings.ContainsFunc(p.Text, func(c rune) bool { return !unicode.IsPrint(c) }) {
				t.Errorf("%q", p.Text)
			}
		}
	})
}
