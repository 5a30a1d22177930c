package audit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Polls says how much is written of polls: what clients ask again and again to see
// how things are, and learn no key by. The zero value is all.
type Polls struct {
	// Sample has one of so many polls written, of each operation and policy, where
	// they were done. It says how many before it were left out. Refusals and
	// failures are always written. 0 and 1: all.
	Sample int `yaml:"sample"`
}

// maxSample bounds Sample: there is to be an entry now and then.
const maxSample = 1_000_000

// Check returns what is wrong with p.
func (p Polls) Check() error {
	if p.Sample < 0 || p.Sample > maxSample {
		return fmt.Errorf("audit: polls.sample: %d is not from 0 to %d", p.Sample, maxSample)
	}
	return nil
}

// A rest is the polls that were left out and that no entry has counted yet. The
// zero value is none.
type rest struct {
	skipped atomic.Uint64 // ever

	mu    sync.Mutex
	kinds map[kind]*Entry // the last one that was left out; Skipped has the number
}

// A kind is what polls are counted by: there are not many, whoever asks.
type kind struct{ operation, policy string }

// leaveOut reports whether the entry is not to be written. If it is, and stands for
// others, it says so from now on.
func (r *rest) leaveOut(p Polls, e *Entry) bool {
	if p.Sample <= 1 || !e.Poll || e.Outcome != OK {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	k := kind{e.Operation, e.Policy}
	last := r.kinds[k]
	if last == nil || last.Skipped >= p.Sample-1 { // the first, and each after so many
		if last != nil {
			e.Skipped = last.Skipped
		}
		if r.kinds == nil {
			r.kinds = make(map[kind]*Entry)
		}
		r.kinds[k] = &Entry{Operation: e.Operation, Policy: e.Policy}
		return false
	}
	last.Skipped++
	r.skipped.Add(1)
	return true
}

// settle writes down how many polls were left out since the last entry of their
// kind. What cannot be written waits in the backlog, as all does.
func (l *Log) settle() {
	l.rest.mu.Lock()
	defer l.rest.mu.Unlock()
	for _, last := range l.rest.kinds {
		if last.Skipped == 0 {
			continue
		}
		last.Time, last.Outcome, last.Status = time.Now(), OK, 200
		_ = l.Write(last) // Close says it, if the backlog is not written
		last.Skipped = 0
	}
}
