package hsm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
)

// written returns what is logged of text.
func written(o *output, log *bytes.Buffer, text string) []string {
	log.Reset()
	o.lines(io.NopCloser(strings.NewReader(text)), 7)
	var all []string
	for line := range strings.Lines(log.String()) {
		var entry struct{ Text string }
		if json.Unmarshal([]byte(line), &entry) == nil {
			all = append(all, entry.Text)
		}
	}
	return all
}

func outputTo(log *bytes.Buffer) *output {
	return newOutput(slog.New(slog.NewJSONHandler(log, nil)), "token")
}

func TestOutputIsBounded(t *testing.T) {
	var log bytes.Buffer
	var text strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&text, "line %d\n", i)
	}
	if n := len(written(outputTo(&log), &log, text.String())); n < outputBurst || n > outputBurst+outputRate {
		t.Errorf("%d lines were logged", n)
	}
	long := written(outputTo(&log), &log, strings.Repeat("x", 100_000)+"\nnext\n\n")
	if len(long) != 2 || len(long[0]) > outputLine || long[1] != "next" {
		t.Errorf("%d lines were logged of two, the first of %d bytes", len(long), len(long[0]))
	}
}

func TestOutputHidesThePIN(t *testing.T) {
	var log bytes.Buffer
	o := outputTo(&log)
	o.hide([]byte("4711-pin"))
	o.hide(nil) // the login has ended, but what the module printed may come late
	if got := written(o, &log, "C_Login(1, 4711-pin)\nC_Login\n"); len(got) != 2 || strings.Contains(log.String(), "4711") || got[1] != "C_Login" {
		t.Errorf("logged is %q", got)
	}
	body, err := json.Marshal(logLine{Text: "text", Attrs: []string{"error", "4711-pin"}})
	if err != nil {
		t.Fatal(err)
	}
	log.Reset()
	if err := o.record(body, 7); err != nil || strings.Contains(log.String(), "4711") {
		t.Errorf("logged is %s, %v", log.String(), err)
	}
	o.wipe()
	if o.pin != nil {
		t.Error("it still has the PIN")
	}
}

func TestOutputShowsNoRegisters(t *testing.T) {
	var log bytes.Buffer
	got := written(outputTo(&log), &log, `SIGSEGV: segmentation violation
PC=0x7f m=4
goroutine 12 gp=0x1f17 m=4 [syscall]:
runtime.cgocall(0x6deae0, 0x1f17fbf6920)
	/usr/local/go/src/runtime/cgocall.go:167 +0x4b fp=0x1f sp=0x1f pc=0x48
github.com/keygate/keygate/hsm.session.mac({0x1f17fd0c000?, 0x4914d2?}, 0x1f17fbf6ab0?)
created by main.main in goroutine 1
rax    0x4b4b4b4b4b4b4b4b
r15    0x4b
x0 0x4b4b4b
`)
	want := []string{"SIGSEGV: segmentation violation", "PC=0x7f m=4", "runtime.cgocall", "/usr/local/go/src/runtime/cgocall.go:167",
		"github.com/keygate/keygate/hsm.session.mac", "created by main.main in goroutine 1"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("logged is %q", got)
	}
}

// A line that is cut is cut after the PIN was looked for: of one across the cut nothing
// is shown.
func TestOutputHidesAPINAcrossTheCut(t *testing.T) {
	var log bytes.Buffer
	o := outputTo(&log)
	o.hide([]byte("4711-pin"))
	line := strings.Repeat("x", outputLine-5) + "4711-pin and more"
	if got := written(o, &log, line+"\n"); len(got) != 1 || strings.Contains(log.String(), "4711") {
		t.Errorf("logged is %q", got)
	}
	here, there := net.Pipe()
	defer here.Close()
	p := newPipe(there, maxReply)
	go func() { _ = p.write() }()
	defer p.close()
	go slog.New(&remoteLog{pipe: p}).Warn(line, "error", line)
	log.Reset()
	frames := newPipe(here, maxReply)
	_ = frames.read(func(f frame) error {
		if err := o.record(f.body, 7); err != nil {
			t.Error(err)
		}
		return io.EOF
	})
	if text := log.String(); text == "" || strings.Contains(text, "4711") {
		t.Errorf("logged is %q", text)
	}
}
