package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"testing"
)

// A pipe takes room bytes and then fails. Nothing can be taken back from it.
type pipe struct {
	bytes.Buffer
	room int
}

var errBroken = errors.New("broken")

func (p *pipe) Write(b []byte) (int, error) {
	if len(b) > p.room {
		n, _ := p.Buffer.Write(b[:p.room])
		p.room = 0
		return n, errBroken
	}
	p.room -= len(b)
	return p.Buffer.Write(b)
}

func (*pipe) ReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }
func (*pipe) Truncate(int64) error              { return errors.ErrUnsupported }
func (*pipe) Stat() (fs.FileInfo, error)        { return nil, errors.ErrUnsupported }
func (*pipe) Sync() error                       { return nil }
func (*pipe) Close() error                      { return nil }

// Wherever a write to a pipe is cut, what comes out in the end is each entry
// once, whole and in order.
func TestCutAnywhereALineIsFinishedWhereNothingCanBeTakenBack(t *testing.T) {
	line := len((&Entry{RequestID: "0"}).AppendJSON(nil)) + 1
	for cut := range 4 * line {
		p := &pipe{room: cut}
		l := &Log{cfg: Config{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}, out: output{p}}
		failed := 0
		for i := range 6 {
			if err := l.Write(&Entry{RequestID: string(rune('0' + i))}); err != nil {
				failed++
				if !errors.Is(err, ErrUnavailable) || !errors.Is(err, errBroken) {
					t.Fatalf("cut at %d: error is %v", cut, err)
				}
				p.room = min(17, max(0, 8*line-p.Len())) // a second cut, inside the backlog
			}
		}
		p.room = 1 << 20
		if err := l.Ready(); err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if failed == 0 {
			t.Fatalf("cut at %d: no write failed", cut)
		}
		checkIDs(t, cut, p.Bytes())
	}
}

func checkIDs(t *testing.T, cut int, b []byte) {
	t.Helper()
	ids := ""
	for text := range bytes.Lines(b) {
		var e struct {
			ID string `json:"request_id"`
		}
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatalf("cut at %d: %v in %q", cut, err, text)
		}
		ids += e.ID
	}
	if ids != "012345" {
		t.Fatalf("cut at %d: the entries are %s", cut, ids)
	}
}
