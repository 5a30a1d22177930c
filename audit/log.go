package audit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Config holds the settings of a Log.
type Config struct {
	// File is where entries are appended, one JSON object a line. It is made
	// with mode 0600. Empty means standard output.
	File string `yaml:"file"`
	// Required says that key operations are refused while entries cannot be
	// written. Nil means true.
	Required *bool `yaml:"required"`

	// Polls says how much is written of what clients ask again and again.
	Polls Polls `yaml:"polls"`
	// Checkpoint has the log signed, so that it shows what was changed in it.
	Checkpoint CheckpointConfig `yaml:"checkpoint"`

	// Off drops entries: only subscribers see them. SetOff changes it.
	Off bool `yaml:"-"`
	// Logger is told when entries cannot be written any more, and when they can
	// again. Nil means slog.Default.
	Logger *slog.Logger `yaml:"-"`
}

// MaxBacklog bounds the entries that are kept while they cannot be written, in
// bytes. Those that come after are counted, and the count is written in their
// place.
const MaxBacklog = 4 << 20

// ErrUnavailable says that an entry could not be written, or could not be if
// there were one.
var ErrUnavailable = errors.New("audit: log is unavailable")

// A Log writes entries. It is safe for concurrent use.
type Log struct {
	cfg  Config
	off  atomic.Bool
	subs subscribers
	rest rest

	// failing says that lines wait in the backlog, or are missing after it.
	failing atomic.Bool
	writers atomic.Int32 // calls of Write that have begun

	joining sync.Mutex // guards what follows
	group   *group     // the lines that the next write takes; nil: none yet
	spare   []byte     // for the lines of the next group

	mu      sync.Mutex // held while lines are written; guards what follows
	out     output
	backlog []byte // whole lines that could not be written, in order
	begun   int    // bytes of the backlog's first line that are at the end of the file already
	missed  uint64 // entries after the backlog that found no place in it
	stats   Stats
	chain   chain  // of the lines that are in the output
	covered uint64 // how many of them the last checkpoint covers

	checkpoints
	marks
}

// A group is lines that one write(2) writes, whoever of those that wait for it is
// first.
type group struct {
	lines   []byte
	taken   bool  // it is written, or could not be; guarded by Log.mu, as the rest
	written int   // bytes of whole lines that are in the file
	err     error // why the others are not
}

// Stats counts what a Log has done since it was opened.
type Stats struct {
	Written uint64 // lines that are in the file
	Failed  uint64 // entries that could not be written when their request was answered
	Missed  uint64 // entries lost for good: they found no place in the backlog
	Backlog int    // bytes that wait to be written
	Skipped uint64 // polls that were left out

	Checkpoints      uint64        // signed since it was opened
	CheckpointErrors uint64        // that could not be signed or written
	Unsigned         time.Duration // for how long a checkpoint has been due; zero: none is
}

// Open returns a Log that appends to the file of cfg.
func Open(cfg Config) (*Log, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	out, err := openOutput(cfg)
	if err != nil {
		return nil, err
	}
	l := &Log{cfg: cfg, out: out}
	l.off.Store(cfg.Off)
	l.due = make(chan struct{}, 1)
	if err := l.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("audit: %w", err), out.Close())
	}
	return l, nil
}

// SetOff says whether entries are dropped from now on.
func (l *Log) SetOff(off bool) { l.off.Store(off) }

// Write appends the entry to the file, after those that could not be written
// before, and gives it to the subscribers. When it returns nil, write(2) has
// returned: the entry survives the death of this process, though perhaps not
// that of the machine. Entries of calls that run at the same time go into one
// write(2), which all of them wait for.
//
// If the entry cannot be written it is kept, to be written later with the mark
// "late", and the error is ErrUnavailable: the request must not be answered with
// what was done. Where the log is not required, the error is always nil.
func (l *Log) Write(e *Entry) error {
	l.subs.send(e)
	if l.off.Load() {
		return nil
	}
	if l.rest.leaveOut(l.cfg.Polls, e) {
		return nil
	}
	if err := l.write(e); err != nil {
		return l.tolerate(err)
	}
	return nil
}

func (l *Log) write(e *Entry) error {
	return l.writeLine(func(dst []byte) []byte { return e.AppendJSON(dst) })
}

// writeLine writes what encode appends, one JSON object.
func (l *Log) writeLine(encode func([]byte) []byte) error {
	others := l.writers.Add(1) > 1
	defer l.writers.Add(-1)
	g, end := l.join(encode)
	if others {
		runtime.Gosched() // let them join
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !g.taken {
		l.take(g)
	}
	if end <= g.written {
		return nil
	}
	return g.err
}

// lineBuffers holds buffers for one entry each, so that entries are encoded outside
// of all locks.
var lineBuffers = sync.Pool{New: func() any { return new([]byte) }}

// join puts the entry at the end of the open group and returns where its line ends
// there.
func (l *Log) join(encode func([]byte) []byte) (g *group, end int) {
	b := lineBuffers.Get().(*[]byte)
	defer lineBuffers.Put(b)
	*b = append(encode((*b)[:0]), '\n')
	l.joining.Lock()
	defer l.joining.Unlock()
	if l.group == nil {
		l.group, l.spare = &group{lines: l.spare[:0]}, nil
	}
	l.group.lines = append(l.group.lines, *b...)
	return l.group, len(l.group.lines)
}

// take closes the group, which is the open one, and writes it. What cannot be
// written is kept.
func (l *Log) take(g *group) {
	l.joining.Lock()
	l.group = nil
	l.joining.Unlock()
	g.taken = true
	rest := g.lines
	if g.err = l.flush(); g.err == nil {
		var n int
		n, g.err = l.out.appendLines(g.lines)
		if g.err == nil {
			n = len(g.lines)
		} else {
			l.failed(g.err)
		}
		g.written = bytes.LastIndexByte(g.lines[:n], '\n') + 1
		l.wrote(g.lines[:g.written])
		rest = g.lines[g.written:]
		if begun := n - g.written; begun > 0 { // what is there cannot be taken back: the rest of the line must follow
			torn := bytes.IndexByte(rest, '\n') + 1
			l.backlog, l.begun = append(l.backlog, rest[:torn]...), begun
			l.stats.Failed++
			rest = rest[torn:]
		}
	}
	for line := range bytes.Lines(rest) {
		l.keep(line[:len(line)-1])
	}
	l.failing.Store(len(l.backlog) > 0 || l.missed > 0)
	l.reuse(g)
}

// maxSpare bounds the memory that is kept for the next group, in bytes.
const maxSpare = 64 << 10

func (l *Log) reuse(g *group) {
	if cap(g.lines) <= maxSpare {
		l.joining.Lock()
		l.spare = g.lines
		l.joining.Unlock()
	}
	g.lines = nil
}

var newline = []byte{'\n'}

// Ready returns nil if an entry could be written now, as far as is known. Ask it
// before a key operation is started: an operation that cannot be written down
// must not be done. Where the log is not required, it is always nil.
func (l *Log) Ready() error {
	if l.off.Load() || !l.failing.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.flush(); err != nil {
		return l.tolerate(err)
	}
	return nil
}

// Required reports whether key operations are refused while entries cannot be
// written.
func (l *Log) Required() bool {
	return !l.off.Load() && (l.cfg.Required == nil || *l.cfg.Required)
}

func (l *Log) tolerate(err error) error {
	if !l.Required() {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// keep puts a line, given as a JSON object, at the end of the backlog.
func (l *Log) keep(object []byte) {
	l.stats.Failed++
	if l.missed > 0 || len(l.backlog)+len(object) > MaxBacklog {
		l.missed++
		l.stats.Missed++
		return
	}
	l.backlog = append(l.backlog, object[:len(object)-1]...)
	l.backlog = append(l.backlog, ",\"late\":true}\n"...)
}

// flush writes the backlog, and then how many entries are missing after it.
func (l *Log) flush() error {
	if len(l.backlog) == 0 && l.missed == 0 {
		return nil
	}
	if err := l.flushBacklog(); err != nil {
		return err
	}
	if l.missed > 0 {
		gap := Entry{Time: time.Now(), Operation: "audit", Outcome: Error,
			Error: fmt.Sprintf("%d entries could not be written and are lost", l.missed)}
		l.backlog, l.missed = append(gap.AppendJSON(l.backlog), '\n'), 0
		if err := l.flushBacklog(); err != nil {
			return err
		}
	}
	l.backlog = nil // it may have been large
	l.failing.Store(false)
	l.cfg.Logger.Info("audit: entries can be written again")
	return nil
}

func (l *Log) flushBacklog() error {
	n, err := l.out.appendLines(l.backlog[l.begun:])
	l.advance(n)
	return err
}

// advance drops the whole lines among the next n bytes of the backlog, and
// remembers how much of the line after them is out.
func (l *Log) advance(n int) {
	done := l.begun + n
	whole := bytes.LastIndexByte(l.backlog[:done], '\n') + 1
	l.wrote(l.backlog[:whole])
	l.begun = done - whole
	l.backlog = append(l.backlog[:0], l.backlog[whole:]...)
}

// failed reports the first failure after a success.
func (l *Log) failed(err error) {
	consequence := "key operations are refused"
	if !l.Required() {
		consequence = "key operations go on, as audit.required is false"
	}
	l.cfg.Logger.Error("audit: entries cannot be written; "+consequence, "error", err)
}

// Stats returns the counters as they are now.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	s.Skipped = l.rest.skipped.Load()
	s.Backlog = len(l.backlog)
	s.Unsigned = l.unsigned()
	return s
}

// Reopen opens the file anew, after a rotation has renamed it. If that fails the
// Log goes on with the old one.
func (l *Log) Reopen() error {
	next, err := openOutput(l.cfg)
	if err != nil {
		return err
	}
	l.marking.Lock() // no mark is made before the old file is durable
	defer l.marking.Unlock()
	old, err := l.replace(next)
	if err != nil {
		return errors.Join(err, next.Close())
	}
	if l.chain.on && l.cfg.File != "" {
		err = old.Sync()
	}
	return errors.Join(err, old.Close())
}

// replace has lines go to next from now on, and returns where they went before.
func (l *Log) replace(next output) (old output, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.goOn(next); err != nil {
		return old, err
	}
	old = l.out
	l.out, l.begun = next, 0 // a line that is torn in the old file is whole in the new one
	return old, nil
}

// Close makes a last attempt to write what was kept, ends the subscriptions and
// closes the file. No other method may be called after.
func (l *Log) Close() error {
	l.EndCheckpoints()
	l.settle()
	l.subs.close()
	end, err := l.end()
	if err == nil && end.Lines > 0 {
		l.leave(end)
	}
	return errors.Join(err, l.out.Close())
}

// end writes what was kept and returns the mark of the end of the run.
func (l *Log) end() (mark, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.flush()
	end := l.here()
	end.Ended = true
	return end, err
}
