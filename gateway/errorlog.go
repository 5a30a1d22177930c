package gateway

import (
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
)

// An ErrorLog is the server's log: JSON lines to a writer, and to those who
// follow it through the API. It is safe for concurrent use.
type ErrorLog struct {
	mu      sync.Mutex
	out     io.Writer
	logger  *slog.Logger
	follows feed
	lines   atomic.Uint64
}

// NewErrorLog returns a log of the records of at least level that writes to
// out. level may change later (slog.LevelVar).
func NewErrorLog(out io.Writer, level slog.Leveler) *ErrorLog {
	l := &ErrorLog{out: out}
	l.logger = slog.New(slog.NewJSONHandler(lineWriter{l}, &slog.HandlerOptions{Level: level}))
	return l
}

// Logger returns the logger that writes to the log.
func (l *ErrorLog) Logger() *slog.Logger { return l.logger }

// A lineWriter takes the lines of a slog.JSONHandler, which writes each with
// one call.
type lineWriter struct{ l *ErrorLog }

func (w lineWriter) Write(line []byte) (int, error) {
	w.l.lines.Add(1)
	w.l.follows.send(strings.TrimSuffix(string(line), "\n"))
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	return w.l.out.Write(line)
}

// feedBacklog is how many lines wait for a follower that is slower than the
// log. It does not get those that come when so many wait.
const feedBacklog = 256

// A feed gives lines to its followers and never waits for one.
type feed struct {
	mu        sync.Mutex
	followers map[chan string]struct{}
	lost      atomic.Uint64
}

// follow returns a channel of the lines from now on. cancel ends it.
func (f *feed) follow() (lines <-chan string, cancel func()) {
	c := make(chan string, feedBacklog)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.followers == nil {
		f.followers = make(map[chan string]struct{})
	}
	f.followers[c] = struct{}{}
	return c, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.followers, c)
	}
}

func (f *feed) send(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.followers {
		select {
		case c <- line:
		default:
			f.lost.Add(1)
		}
	}
}
