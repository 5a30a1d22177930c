package audit

import (
	"crypto/sha256"
	"fmt"
)

// That a run follows the one before it, as the mark in its first line says. The line is
// the first of its chain, so that each checkpoint of the run covers it.

// A point is a place in a chain that a mark can name.
type point struct {
	lines uint64
	value [sha256.Size]byte
}

// maxBehind is how many checkpoints a mark may be behind the log. Each leaves a mark: it
// is behind by one if the gateway was killed in between, and by more if marks could not
// be written.
const maxBehind = 1 << 16

// passed remembers where a checkpoint, or with zero the first line of the chain, stands.
func (r *run) passed(sequence uint64, p point) {
	if r.points == nil {
		r.points = map[uint64]point{}
	}
	r.points[sequence] = p
	if sequence > maxBehind {
		delete(r.points, sequence-maxBehind)
	}
}

// follows looks at what a run that begins says of the one before it, and reports
// whether it vouches for all its lines. tied: what stands in the file before this line,
// which its chain vouches for, has a line about the chain of the run before.
func (v *Verifier) follows(c chainLine, tied bool) (whole bool) {
	m := c.Previous
	switch {
	case !v.known:
		v.first(c)
	case m == nil && tied: // the file itself shows what came before
	case m == nil:
		v.found.Unlinked = append(v.found.Unlinked, v.here("the run %s begins without a word of the one before it: %s", c.Log, unmarked(c)))
	case m.Log == v.log:
		return v.holds(&v.run, m)
	case !v.marks && v.marked != nil && m.Log == v.marked.log:
		// Runs of a release that left no marks came in between, and have been counted.
		v.holds(v.marked, m)
	case v.sequence == 0 && v.previous != nil && *v.previous == *m:
		// The run before was killed before it could leave a mark or a checkpoint: this
		// one knows of it as little as it did itself of others.
	case v.seen[m.Log]:
		v.problem("the run %s came before this one, and here it is the run %s: the files are out of order, or a run stands where it was not", m.Log, v.log)
	default:
		v.problem("the run %s, which came before this one, is not here: before it is the run %s", m.Log, v.log)
	}
	return false
}

// unmarked returns why a run says nothing of the one before it.
func unmarked(c chainLine) string {
	switch c.Unmarked {
	case "":
		return "it is of a release that did not write that down"
	case noMarkOnStdout, noMarkFile, badMarkFile:
		return c.Unmarked
	}
	return shown(c.Unmarked)
}

// first looks at what the first run of the files says of the one before it.
func (v *Verifier) first(c chainLine) {
	if c.Previous == nil {
		return
	}
	v.found.Follows = c.Previous.Log
	if n := v.read - c.BeforeBytes; n > 0 {
		v.problem("the lines before this one are of no run, and the run %s came before it", c.Previous.Log)
	}
}

// holds adds what is wrong if r is not as its mark says, and reports whether the mark is
// of its end.
func (v *Verifier) holds(r *run, m *mark) (whole bool) {
	wrong := r.differs(m)
	if wrong != "" {
		v.problem("%s", wrong)
	}
	return wrong == "" && m.Ended && !r.lost
}

// differs says what is wrong if the run is not as m, a mark of it, says.
func (r *run) differs(m *mark) string {
	value, _ := sum(m.Value)
	found, known := r.points[m.Sequence]
	switch {
	case r.lost: // this has been said, and no value can be compared
	case m.Lines > r.lines():
		return fmt.Sprintf("the end of the run %s is missing: it had %d lines or more, and here are %d", r.log, m.Lines, r.lines())
	case m.Ended && m.Lines < r.lines():
		return fmt.Sprintf("the run %s ended with its line %d, and here are %d more: they were added, or written by a gateway that does not sign", r.log, m.Lines, r.lines()-m.Lines)
	case m.Ended && value != r.last():
		return fmt.Sprintf("lines at the end of the run %s were changed, added or removed", r.log)
	case m.Ended:
	case m.Lines <= r.from: // the place is in a file before, which is not here
	case m.Sequence > r.sequence:
		return fmt.Sprintf("checkpoint %d of the run %s is missing at its end: the last that is here is %d", m.Sequence, r.log, r.sequence)
	case !known:
		return fmt.Sprintf("checkpoint %d of the run %s, up to which the run after it knows it, is not here, or too far back to be compared", m.Sequence, r.log)
	case found != point{m.Lines, value}:
		return fmt.Sprintf("checkpoint %d of the run %s is not where the run after it says: lines of one of them were changed", m.Sequence, r.log)
	}
	return ""
}
