package audit_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/audit"
)

// A switchedKey can be away, or slow.
type switchedKey struct {
	crypto.Signer
	away atomic.Bool
	hold chan struct{}                 // if not nil, a signature waits for it
	not  atomic.Pointer[func() []byte] // if not nil, makes what is answered in the place of a signature
}

func (k *switchedKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.hold != nil {
		<-k.hold
	}
	if k.away.Load() {
		return nil, errors.New("the token is away")
	}
	if not := k.not.Load(); not != nil {
		return (*not)(), nil
	}
	return k.Signer.Sign(r, digest, opts)
}

func newSigner(t *testing.T) *switchedKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &switchedKey{Signer: key}
}

// signedLog opens a log that key signs by time hardly ever, and after so many lines.
func signedLog(t *testing.T, file string, key crypto.Signer, entries int) *audit.Log {
	t.Helper()
	l := open(t, audit.Config{File: file, Checkpoint: audit.CheckpointConfig{Key: "pkcs11:object=sign", Every: time.Hour, Entries: entries}})
	if err := l.SignCheckpoints(key); err != nil {
		t.Fatal(err)
	}
	return l
}

func writeEntries(t *testing.T, l *audit.Log, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := l.Write(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func closeLog(t *testing.T, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func verify(t *testing.T, key crypto.Signer, texts ...[]byte) audit.Verification {
	t.Helper()
	v, err := audit.NewVerifier(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range texts {
		if err := v.File(fmt.Sprint("file ", i), bytes.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	return v.Result()
}

func contents(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it did not come to pass: %s", what)
		}
	}
}

// signedRun returns a log of 320 entries by eight writers, with several
// checkpoints.
func signedRun(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit.log")
	l := signedLog(t, file, key, 100)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() { writeEntries(t, l, g*1000, g*1000+40) })
	}
	wg.Wait()
	closeLog(t, l)
	return contents(t, file)
}

func TestAU09_CheckpointsCoverTheWholeLog(t *testing.T) {
	key := newSigner(t)
	text := signedRun(t, key)
	r := verify(t, key, text)
	// All but the last line, which is the last checkpoint, are covered.
	if !r.OK || r.Checkpoints < 2 || r.After != 1 || r.Covered != r.Lines-1 || r.Before != 0 {
		t.Errorf("%+v", r)
	}
	if strangers := verify(t, newSigner(t), text); strangers.OK || strangers.Checkpoints != 0 || len(strangers.Problems) == 0 {
		t.Errorf("under another key: %+v", strangers)
	}
}

// Whatever is done to a line that a checkpoint covers is found.
func TestAU09_TamperingIsFound(t *testing.T) {
	key := newSigner(t)
	lines := bytes.SplitAfter(bytes.TrimSuffix(signedRun(t, key), []byte("\n")), []byte("\n"))
	lines[len(lines)-1] = append(lines[len(lines)-1], '\n')
	check := func(t *testing.T, changed [][]byte) {
		t.Helper()
		if r := verify(t, key, bytes.Join(changed, nil)); r.OK || len(r.Problems) == 0 {
			t.Errorf("not found: %+v", r)
		}
	}
	if r := verify(t, key, bytes.Join(lines, nil)); !r.OK {
		t.Fatalf("untouched: %+v", r)
	}
	for i := range len(lines) - 1 { // the last is the last checkpoint: to take it away takes cover away
		if i%41 != 0 && i > 1 && i < len(lines)-3 && !bytes.Contains(lines[i], []byte("checkpoint")) {
			continue
		}
		t.Run(fmt.Sprint("line ", i+1), func(t *testing.T) {
			check(t, slices.Delete(slices.Clone(lines), i, i+1))
			if i < len(lines)-2 { // what stands between the lines that are covered and their checkpoint is not
				check(t, slices.Insert(slices.Clone(lines), i, lines[i]))
			}
			if !bytes.Equal(lines[i], lines[i+1]) {
				swapped := slices.Clone(lines)
				swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
				check(t, swapped)
			}
			for _, at := range []int{1, len(lines[i]) / 2, len(lines[i]) - 3} {
				flipped := slices.Clone(lines)
				flipped[i] = bytes.Clone(lines[i])
				flipped[i][at] ^= 1
				check(t, flipped)
			}
		})
	}
	t.Run("no checkpoint at all", func(t *testing.T) {
		rest := slices.DeleteFunc(slices.Clone(lines), func(l []byte) bool { return bytes.Contains(l, []byte(`"operation":"audit:`)) })
		if r := verify(t, key, bytes.Join(rest, nil)); r.OK || r.Covered != 0 {
			t.Errorf("not found: %+v", r)
		}
	})
	t.Run("a forged beginning in the place of the first half", func(t *testing.T) {
		forged := append([][]byte{[]byte(`{"operation":"audit:chain","chain":{"log":"` + strings.Repeat("0", 32) + `","lines":0,"value":"` + strings.Repeat("0", 64) + `"}}` + "\n")}, lines[len(lines)/2:]...)
		check(t, forged)
	})
}

// rotated returns the files of one run: so many, each with 150 entries.
func rotated(t *testing.T, key crypto.Signer, files int) (texts [][]byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit.log")
	l := signedLog(t, file, key, 100)
	for n := range files {
		writeEntries(t, l, n*150, (n+1)*150)
		if n == files-1 {
			break
		}
		old := fmt.Sprintf("%s.%d", file, n)
		if err := errors.Join(os.Rename(file, old), l.Reopen()); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, contents(t, old))
	}
	closeLog(t, l)
	return append(texts, contents(t, file))
}

func TestAU09_CheckpointsGoOnOverRotations(t *testing.T) {
	key := newSigner(t)
	texts := rotated(t, key, 4)
	if r := verify(t, key, texts...); !r.OK || r.Covered != r.Lines-1 {
		t.Errorf("all: %+v", r)
	}
	if r := verify(t, key, texts[2:]...); !r.OK || r.Covered == 0 {
		t.Errorf("the last two: %+v", r)
	}
	if r := verify(t, key, texts[0], texts[2], texts[3]); r.OK {
		t.Errorf("without the second: %+v", r)
	}
	cut := texts[1][:bytes.LastIndexByte(texts[1][:len(texts[1])-1], '\n')+1]
	if r := verify(t, key, texts[0], cut, texts[2], texts[3]); r.OK {
		t.Errorf("with a line less at the end of the second: %+v", r)
	}
}

// What a killed process left without a checkpoint is covered by the next process's.
func TestAU09_TheNextProcessCoversWhatAKilledOneLeft(t *testing.T) {
	key := newSigner(t)
	file := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, audit.Config{File: file})
	writeEntries(t, l, 0, 10) // before it was signed
	closeLog(t, l)

	killed := open(t, audit.Config{File: file, Checkpoint: audit.CheckpointConfig{Key: "k", Every: time.Hour}})
	writeEntries(t, killed, 10, 50)
	lost := contents(t, file)

	l = signedLog(t, file, key, 0)
	writeEntries(t, l, 50, 100)
	closeLog(t, l)
	text := contents(t, file)
	if r := verify(t, key, text); !r.OK || r.Before != 10 || r.Covered != r.Lines-11 {
		t.Errorf("%+v", r)
	}
	changed := bytes.Clone(text)
	changed[len(lost)-20] ^= 1
	if r := verify(t, key, changed); r.OK {
		t.Errorf("a line of the killed process was changed: %+v", r)
	}
	killed.Close()
}

func TestAU09_ATokenThatIsAwayHoldsUpNoEntry(t *testing.T) {
	key := newSigner(t)
	key.hold = make(chan struct{})
	file := filepath.Join(t.TempDir(), "audit.log")
	l := signedLog(t, file, key, 100)
	writeEntries(t, l, 0, 500) // while the first signature hangs
	eventually(t, "a checkpoint is due", func() bool { return l.Stats().Unsigned > 0 })
	if got := l.Stats(); got.Checkpoints != 0 {
		t.Errorf("%+v", got)
	}
	key.away.Store(true)
	close(key.hold)
	writeEntries(t, l, 500, 1000)
	eventually(t, "a checkpoint fails", func() bool { return l.Stats().CheckpointErrors > 0 })
	key.away.Store(false)
	for n := 1000; l.Stats().Checkpoints == 0; n += 10 {
		writeEntries(t, l, n, n+10)
	}
	eventually(t, "nothing is due", func() bool { return l.Stats().Unsigned == 0 })
	closeLog(t, l)
	if r := verify(t, key, contents(t, file)); !r.OK || r.Covered != r.Lines-1 {
		t.Errorf("%+v", r)
	}
}

// A signature that would not verify is in no line: whoever verified the log would take it
// for a line that was changed.
func TestAU09_AnEmptyOrWrongSignatureIsNoCheckpoint(t *testing.T) {
	other := newSigner(t)
	for name, not := range map[string]func() []byte{
		"empty": func() []byte { return nil },
		"wrong": func() []byte {
			signature, _ := other.Sign(rand.Reader, make([]byte, crypto.SHA256.Size()), crypto.SHA256)
			return signature
		},
	} {
		key := newSigner(t)
		key.not.Store(&not)
		file := filepath.Join(t.TempDir(), "audit.log")
		l := signedLog(t, file, key, 100)
		eventually(t, name+": the checkpoint is late", func() bool { return l.Stats().CheckpointErrors > 0 })
		if text := contents(t, file); bytes.Contains(text, []byte("audit:checkpoint")) {
			t.Errorf("%s: it was written: %s", name, text)
		}
		key.not.Store(nil)
		writeEntries(t, l, 0, 100)
		eventually(t, name+": the next is written", func() bool { return l.Stats().Checkpoints > 0 })
		closeLog(t, l)
		if r := verify(t, key, contents(t, file)); len(r.Problems) > 0 {
			t.Errorf("%s: %v", name, r.Problems)
		}
	}
}

func TestCheckpointConfigIsChecked(t *testing.T) {
	for text, c := range map[string]audit.CheckpointConfig{
		"checkpoint.key":     {Every: time.Minute},
		"checkpoint.every":   {Key: "k", Every: time.Millisecond},
		"checkpoint.entries": {Key: "k", Entries: 1},
	} {
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := (audit.CheckpointConfig{Key: "k"}).Check(); err != nil {
		t.Error(err)
	}
}

func BenchmarkWriteChained(b *testing.B) {
	l, err := audit.Open(audit.Config{File: filepath.Join(b.TempDir(), "audit.log"), Logger: quiet(), Checkpoint: audit.CheckpointConfig{Key: "k", Every: time.Hour}})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	e := entry(1)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Write(e); err != nil {
			b.Fatal(err)
		}
	}
}
