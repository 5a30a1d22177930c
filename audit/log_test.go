package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keygate/keygate/audit"
)

func entry(n int) *audit.Entry {
	return &audit.Entry{
		Time: time.Unix(1700000000, int64(n)), RequestID: fmt.Sprintf("r%06d", n), Identity: strings.Repeat("ab", 32),
		Source: "192.0.2.1:4711", Operation: "generate", Policy: "app", Key: "app-1", KeyID: [16]byte{1, 2},
		Version: 1, Mode: "direct", Outcome: audit.OK, Status: 200, Duration: 1234567 * time.Nanosecond,
	}
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func open(t *testing.T, cfg audit.Config) *audit.Log {
	t.Helper()
	cfg.Logger = quiet()
	l, err := audit.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A line is what a reader of the log decodes.
type line struct {
	Time       time.Time `json:"time"`
	RequestID  string    `json:"request_id"`
	Identity   string    `json:"identity"`
	Source     string    `json:"source"`
	Operation  string    `json:"operation"`
	Path       string    `json:"path"`
	Policy     string    `json:"policy"`
	Key        string    `json:"key"`
	KeyID      string    `json:"key_id"`
	Version    uint32    `json:"version"`
	Mode       string    `json:"mode"`
	Outcome    string    `json:"outcome"`
	Status     int       `json:"status"`
	DurationUS int64     `json:"duration_us"`
	Error      string    `json:"error"`
	Late       bool      `json:"late"`
}

// read returns the lines of a log and fails if one is torn or has a field that
// is not documented.
func read(t *testing.T, name string) []line {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		t.Errorf("the last line is torn: %q", b[bytes.LastIndexByte(b, '\n')+1:])
	}
	var lines []line
	for text := range bytes.Lines(b) {
		var l line
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&l); err != nil {
			t.Fatalf("line %d is no entry: %v: %q", len(lines)+1, err, text)
		}
		lines = append(lines, l)
	}
	return lines
}

func TestWriteIsInTheFileWhenItReturns(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, audit.Config{File: name})
	defer l.Close()
	if err := l.Write(entry(7)); err != nil {
		t.Fatal(err)
	}
	got := read(t, name)
	want := line{
		Time: time.Unix(1700000000, 7).UTC(), RequestID: "r000007", Identity: strings.Repeat("ab", 32), Source: "192.0.2.1:4711",
		Operation: "generate", Policy: "app", Key: "app-1", KeyID: "01020000000000000000000000000000", Version: 1, Mode: "direct",
		Outcome: "ok", Status: 200, DurationUS: 1234,
	}
	if len(got) != 1 || got[0] != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v, want 0600", info.Mode(), err)
	}
}

func TestWriteFromManyGoroutinesKeepsLinesWhole(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, audit.Config{File: name})
	defer l.Close()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				if err := l.Write(entry(g*1000 + i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool)
	for _, e := range read(t, name) {
		seen[e.RequestID] = true
	}
	if len(seen) != 1600 {
		t.Errorf("%d different entries, want 1600", len(seen))
	}
}

func TestOpenRefusesWhatOthersCouldRedirectOrWrite(t *testing.T) {
	dir := t.TempDir()
	place := func(name string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(place("target", 0o600), link); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"symbolic link": link, "FIFO": fifo, "directory": dir, "device": "/dev/null",
		"group writable": place("g", 0o620), "world writable": place("o", 0o602), "executable": place("x", 0o700),
		"no such directory": filepath.Join(dir, "none", "audit.log"),
	} {
		t.Run("AU-08 "+name, func(t *testing.T) {
			l, err := audit.Open(audit.Config{File: file, Logger: quiet()})
			if err == nil {
				l.Close()
				t.Fatal("opened")
			}
			if !strings.HasPrefix(err.Error(), "audit: ") || !strings.Contains(err.Error(), file) {
				t.Errorf("error %q does not name the package and the file", err)
			}
		})
	}
	l := open(t, audit.Config{File: place("readable", 0o644)})
	l.Close()
}

func TestOpenEndsALineThatAKilledProcessLeft(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(name, []byte(`{"time":"20`), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, audit.Config{File: name})
	defer l.Close()
	if err := l.Write(entry(1)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	torn, rest, _ := strings.Cut(string(b), "\n")
	if torn != `{"time":"20` || !json.Valid([]byte(rest)) {
		t.Errorf("the file is %q", b)
	}
}

func TestAU08ReopenAfterRotationLosesNoEntry(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "audit.log")
	l := open(t, audit.Config{File: name})
	defer l.Close()
	n := 0
	for round := range 5 {
		for range 10 {
			if err := l.Write(entry(n)); err != nil {
				t.Fatal(err)
			}
			n++
		}
		if err := os.Rename(name, fmt.Sprintf("%s.%d", name, round)); err != nil {
			t.Fatal(err)
		}
		if err := l.Write(entry(n)); err != nil { // between rename and signal: to the renamed file
			t.Fatal(err)
		}
		n++
		if err := l.Reopen(); err != nil {
			t.Fatal(err)
		}
	}
	var all []line
	for round := range 5 {
		all = append(all, read(t, fmt.Sprintf("%s.%d", name, round))...)
	}
	if got := len(read(t, name)); got != 0 {
		t.Errorf("%d entries in the new file, want 0", got)
	}
	if len(all) != n {
		t.Fatalf("%d entries, want %d", len(all), n)
	}
	for i, e := range all {
		if e.RequestID != entry(i).RequestID {
			t.Fatalf("entry %d is %s", i, e.RequestID)
		}
	}
}

func TestReopenThatFailsGoesOnWithTheOldFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "audit.log")
	l := open(t, audit.Config{File: name})
	defer l.Close()
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil {
		t.Fatal("a directory was taken for a file")
	}
	if err := l.Write(entry(1)); err != nil {
		t.Fatal(err)
	}
	if got := len(read(t, name+".1")); got != 1 {
		t.Errorf("%d entries in the old file, want 1", got)
	}
}

func TestSubscriberThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	l := open(t, audit.Config{File: filepath.Join(t.TempDir(), "audit.log")})
	entries, cancel := l.Subscribe()
	defer cancel()
	for i := range 2 * audit.SubscriberBacklog {
		if err := l.Write(entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range audit.SubscriberBacklog {
		if e := <-entries; e.RequestID != entry(i).RequestID {
			t.Fatalf("entry %d is %s", i, e.RequestID)
		}
	}
	other, cancelOther := l.Subscribe()
	cancelOther()
	cancelOther()
	if _, ok := <-other; ok {
		t.Error("a cancelled subscription delivers")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := <-entries; ok {
		t.Error("the subscription did not end with the log")
	}
	late, cancelLate := l.Subscribe()
	defer cancelLate()
	if _, ok := <-late; ok {
		t.Error("a subscription to a closed log delivers")
	}
}

func TestOffWritesNothingAndStillFeedsSubscribers(t *testing.T) {
	name := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, audit.Config{File: name, Off: true})
	defer l.Close()
	entries, cancel := l.Subscribe()
	defer cancel()
	if err := errors.Join(l.Ready(), l.Write(entry(1))); err != nil {
		t.Fatal(err)
	}
	if e := <-entries; e.RequestID != entry(1).RequestID {
		t.Errorf("got %s", e.RequestID)
	}
	if got := len(read(t, name)); got != 0 {
		t.Errorf("%d entries in the file, want 0", got)
	}
	l.SetOff(false)
	if err := l.Write(entry(2)); err != nil {
		t.Fatal(err)
	}
	if got := read(t, name); len(got) != 1 || got[0].RequestID != entry(2).RequestID {
		t.Errorf("after SetOff(false) the file holds %+v", got)
	}
}

func BenchmarkWrite(b *testing.B) {
	l, err := audit.Open(audit.Config{File: filepath.Join(b.TempDir(), "audit.log"), Logger: quiet()})
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

func BenchmarkAppendJSON(b *testing.B) {
	e := entry(1)
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
}
