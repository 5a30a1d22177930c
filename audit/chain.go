package audit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strconv"
	"time"
)

// A chain binds each line of the log to all lines before it: value is
//
//	c(0) = 32 zero bytes
//	c(i) = SHA-256(c(i-1) || line i with its line break)
//
// over the whole lines in the order in which they are in the output, those about
// the chain itself included. A chain begins when a Log with checkpoints is opened,
// with a line of operation audit:chain, and goes on over rotations: the first line
// of the next file says where it stands.
type chain struct {
	on    bool
	log   string // 32 hex digits, random: names the chain
	lines uint64
	value [sha256.Size]byte
}

// The operations of the lines that are about the log itself.
const (
	chainOperation      = "audit:chain"
	checkpointOperation = "audit:checkpoint"
)

// logIDSize is the length of the name of a chain, in bytes.
const logIDSize = 16

func newChain() chain {
	id := make([]byte, logIDSize)
	rand.Read(id)
	return chain{on: true, log: hex.EncodeToString(id)}
}

// add takes in whole lines that are in the output now.
func (c *chain) add(lines []byte) {
	for line := range bytes.Lines(lines) {
		c.value, c.lines = link(c.value, line), c.lines+1
	}
}

// link returns the value of a chain after one more line.
func link(value [sha256.Size]byte, line []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(value[:])
	h.Write(line)
	h.Sum(value[:0])
	return value
}

// maxBefore is how much of a file a chain that begins in it vouches for: the lines
// of a process that was killed have no checkpoint after them.
const maxBefore = 16 << 20

// A chainLine says where a chain stands at the beginning of a file, or, with Lines
// zero, that it begins here.
type chainLine struct {
	Log   string `json:"log"`
	Lines uint64 `json:"lines"` // of the chain, before this one
	Value string `json:"value"` // of the chain, before this line, in hex
	// BeforeBytes is how many bytes of the file stand before a chain that begins,
	// maxBefore at most, and Before their SHA-256.
	BeforeBytes int64  `json:"before_bytes,omitempty"`
	Before      string `json:"before,omitempty"`
	// Previous is the mark of the run before a chain that begins, and Unmarked why there
	// is none. In the logs of releases that left no marks there is neither.
	Previous *mark  `json:"previous,omitempty"`
	Unmarked string `json:"unmarked,omitempty"`
}

func (c *chain) line() chainLine {
	return chainLine{Log: c.log, Lines: c.lines, Value: hex.EncodeToString(c.value[:])}
}

// appendControl appends the line, without its line break, of an operation that is
// the log's own. It has the fields that all entries have.
func appendControl(dst []byte, at time.Time, operation, name string, value any) []byte {
	e := Entry{Time: at, Operation: operation, Outcome: OK}
	dst = e.AppendJSON(dst)
	dst = append(dst[:len(dst)-1], ',')
	dst = append(strconv.AppendQuote(dst, name), ':')
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // only for types that are not ours
	}
	return append(append(dst, text...), '}')
}

// begin starts the chain of a Log, if it is to have checkpoints. A line that cannot
// be written now waits, as those of entries do.
func (l *Log) begin() error {
	if l.cfg.Checkpoint.Key == "" {
		return nil
	}
	l.chain = newChain()
	l.findMark()
	line, err := l.beginning(l.out)
	if err != nil {
		return err
	}
	n, err := l.out.appendLines(line)
	if err != nil {
		l.failed(err)
		l.backlog, l.begun = line, n
		l.failing.Store(true)
		return nil
	}
	l.wrote(line)
	l.leave(l.here()) // also a run that is killed before its first checkpoint is to be missed
	return nil
}

// beginning returns the line that begins the chain in out.
func (l *Log) beginning(out output) (line []byte, err error) {
	c := l.chain.line()
	c.Previous, c.Unmarked = l.previous, l.unmarked
	if c.BeforeBytes, c.Before, err = out.before(); err != nil {
		return nil, err
	}
	return append(appendControl(nil, time.Now(), chainOperation, "chain", c), '\n'), nil
}

// before returns how many bytes at the end of the output a chain vouches for, and
// their SHA-256 in hex.
func (o output) before() (n int64, sum string, err error) {
	if _, pipe := o.file.(stdout); pipe {
		return 0, "", nil
	}
	info, err := o.Stat()
	if err != nil || info.Size() == 0 {
		return 0, "", err
	}
	n = min(info.Size(), maxBefore)
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(o, info.Size()-n, n)); err != nil {
		return 0, "", err
	}
	return n, hex.EncodeToString(h.Sum(nil)), nil
}

// goOn writes into the next file of a rotation where the chain stands.
func (l *Log) goOn(next output) error {
	if !l.chain.on {
		return nil
	}
	if l.chain.lines == 0 {
		return l.beginElsewhere(next)
	}
	line := append(appendControl(nil, time.Now(), chainOperation, "chain", l.chain.line()), '\n')
	if _, err := next.appendLines(line); err != nil {
		return err
	}
	l.wrote(line)
	return nil
}

// beginElsewhere has the line that begins the chain, which waits as the first of the
// backlog, speak of the file where it will be written.
func (l *Log) beginElsewhere(next output) error {
	line, err := l.beginning(next)
	if err != nil {
		return err
	}
	l.backlog = append(line, l.backlog[bytes.IndexByte(l.backlog, '\n')+1:]...)
	return nil
}

// wrote takes note of whole lines that are in the output now.
func (l *Log) wrote(lines []byte) {
	l.stats.Written += uint64(bytes.Count(lines, newline))
	if !l.chain.on {
		return
	}
	l.chain.add(lines)
	if n := l.cfg.Checkpoint.Entries; n > 0 && l.chain.lines-l.covered >= uint64(n) {
		select {
		case l.due <- struct{}{}:
		default: // it is known
		}
	}
}
