package audit

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/keygate/keygate/newfile"
)

// A mark says how far the run of a gateway that wrote a chain had come when it last
// said so. The run after it has it in the line that begins its own chain, so that its
// checkpoints cover it: a run that was taken out, cut or put elsewhere is then found,
// whatever files the runs are in.
type mark struct {
	Log      string `json:"log"`             // of the chain
	Sequence uint64 `json:"sequence"`        // of its last checkpoint; zero: it had none
	Lines    uint64 `json:"lines"`           // of the chain, up to the place that is marked
	Value    string `json:"value"`           // of the chain there, in hex
	Ended    bool   `json:"ended,omitempty"` // the run has ended, and no line comes after
}

// Why a chain begins without the mark of the run before.
const (
	noMarkOnStdout = "the log is standard output"
	noMarkFile     = "no run has left a mark beside this log"
	badMarkFile    = "the mark that is beside this log cannot be used"
)

// markFile is where the runs that write the log of this name leave their marks. Patterns
// for the files of the log do not match it, as it begins with a dot.
func markFile(log string) string {
	return filepath.Join(filepath.Dir(log), "."+filepath.Base(log)+".chain")
}

// maxMark bounds the size of the file of a mark, in bytes.
const maxMark = 4096

// readMark returns the mark that the run before has left beside the log of this name.
// The error is fs.ErrNotExist if there is none.
func readMark(log string) (*mark, error) {
	f, err := os.OpenFile(markFile(log), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s is no file that its owner alone can write to: %v", f.Name(), mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxMark))
	if err != nil {
		return nil, err
	}
	m := new(mark)
	if err := json.Unmarshal(text, m); err != nil || !m.valid() {
		return nil, fmt.Errorf("%s is malformed", f.Name())
	}
	return m, nil
}

func (m *mark) valid() bool {
	_, ok := sum(m.Value)
	return ok && isLogID(m.Log)
}

func writeMark(log string, m mark) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return newfile.Replace(markFile(log), append(text, '\n'))
}

// marks are what a Log keeps of the run before, and leaves of its own.
type marks struct {
	previous *mark  // nil: unmarked says why
	unmarked string // why there is none

	marking sync.Mutex // held while a mark is made, or the file replaced; taken before Log.mu
	fault   string     // the last that was logged, so that it is not logged each time
}

// findMark looks for the mark of the run before. A log that has none begins without.
func (l *Log) findMark() {
	if l.cfg.File == "" {
		l.unmarked = noMarkOnStdout
		return
	}
	m, err := readMark(l.cfg.File)
	switch {
	case err == nil:
		l.previous = m
	case errors.Is(err, fs.ErrNotExist):
		l.unmarked = noMarkFile
	default:
		l.unmarked = badMarkFile
		l.cfg.Logger.Warn("audit: the log begins without a word of the run before it", "error", err)
	}
}

// here returns the mark of the place where the chain stands. Log.mu is held.
func (l *Log) here() mark {
	return mark{Log: l.chain.log, Sequence: l.sequence, Lines: l.chain.lines, Value: hex.EncodeToString(l.chain.value[:])}
}

// leave puts m beside the log. The lines up to there are made durable before: a mark
// must not speak of lines that a loss of power takes away. If it cannot be done, the
// next run has an earlier mark to name, or none, and nothing is held up.
func (l *Log) leave(m mark) {
	if l.cfg.File == "" {
		return
	}
	l.marking.Lock()
	defer l.marking.Unlock()
	l.mu.Lock()
	out := l.out
	l.mu.Unlock()
	err := out.Sync()
	if err == nil {
		err = writeMark(l.cfg.File, m)
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != l.fault {
		l.cfg.Logger.Error("audit: the place where the log stands could not be noted beside it: if this run ends now, the next one does not say how far it had come", "error", err)
	}
	l.fault = text
}
