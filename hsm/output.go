package hsm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// An output logs what a worker process writes, and what its module does: not more than
// some lines a second, nor long ones, and no line that holds the PIN while that is on
// its way to the token.
type output struct {
	log   *slog.Logger
	token string

	mu      sync.Mutex
	room    int // lines that may be logged now
	filled  time.Time
	dropped uint64
	pin     []byte
	forget  *time.Timer
}

const (
	outputBurst = 32 // lines at once
	outputRate  = 8  // lines a second after that
	outputLine  = 512
	// outputSeen is how much of a line is searched for the PIN, before it is cut: one
	// that begins in what is shown is found whole.
	outputSeen = outputLine + maxPIN
	// hideTime is how long after a login its PIN is looked for.
	hideTime = time.Second
)

func newOutput(log *slog.Logger, token string) *output {
	return &output{log: log, token: token, room: outputBurst, filled: time.Now()}
}

// lines logs the lines of r until it ends.
func (o *output) lines(r io.ReadCloser, pid int) {
	defer r.Close()
	in := bufio.NewReaderSize(r, outputSeen)
	traces := false
	for rest := false; ; { // rest: of a line whose beginning was logged
		line, err := in.ReadSlice('\n')
		text := string(bytes.TrimSpace(line))
		traces = traces || strings.HasPrefix(text, "goroutine ")
		if traces {
			text = traceLine(text)
		}
		if !rest && text != "" {
			o.line(slog.LevelWarn, "hsm: the worker process of the module wrote", pid, "text", text)
		}
		rest = errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !rest {
			o.hide(nil)
			return
		}
	}
}

// traceLine returns what may be logged of a line of the traces that the runtime of Go
// writes when a process crashes: functions without their arguments, and places. At their
// end come the registers, in which keys may be.
func traceLine(text string) string {
	text, _, _ = strings.Cut(text, "(0x")
	text, _, _ = strings.Cut(text, "({")
	text, _, _ = strings.Cut(text, " +0x")
	if strings.Contains(text, "0x") || !strings.ContainsAny(text, "./") {
		return ""
	}
	return text
}

// A logLine is what the gateway's part of a worker logs.
type logLine struct {
	Level slog.Level
	Text  string
	Attrs []string // names and values
}

// record logs the line that body has as JSON.
func (o *output) record(body []byte, pid int) error {
	var l logLine
	if err := json.Unmarshal(body, &l); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	o.line(l.Level, l.Text, pid, l.Attrs...)
	return nil
}

func (o *output) line(level slog.Level, text string, pid int, attrs ...string) {
	if !o.admit() {
		return
	}
	o.mu.Lock()
	dropped := o.dropped
	o.dropped = 0
	args := []any{"token", o.token, "pid", pid}
	if dropped > 0 {
		args = append(args, "lines_left_out", dropped)
	}
	for _, a := range attrs[:min(len(attrs), 16)] {
		args = append(args, o.shown(a))
	}
	text = o.shown(text)
	o.mu.Unlock()
	o.log.Log(context.Background(), level, text, args...)
}

// shown returns text as it may be logged. mu is held.
func (o *output) shown(text string) string {
	if len(o.pin) > 0 && bytes.Contains([]byte(text), o.pin) {
		return "(left out: it holds the PIN)"
	}
	return strings.ToValidUTF8(text[:min(len(text), outputLine)], "?")
}

// admit reports whether a line may be logged, and counts it.
func (o *output) admit() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if more := int(time.Since(o.filled).Seconds() * outputRate); more > 0 {
		o.room, o.filled = min(o.room+more, outputBurst), time.Now()
	}
	if o.room == 0 {
		o.dropped++
		return false
	}
	o.room--
	return true
}

// hide has lines that hold pin left out, until a moment after hide(nil).
func (o *output) hide(pin []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.forget != nil {
		o.forget.Stop()
		o.forget = nil
	}
	if pin == nil && o.pin != nil {
		o.forget = time.AfterFunc(hideTime, o.wipe)
		return
	}
	clear(o.pin)
	o.pin = bytes.Clone(pin)
}

func (o *output) wipe() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.pin)
	o.pin = nil
}
