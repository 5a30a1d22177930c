package audit

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// A Verifier looks at the files of a log, in their order, and finds out whether
// their lines are those that were signed. It does not look at what the entries say.
type Verifier struct {
	keys    map[string]crypto.PublicKey // by their ids
	allowed int                         // unlinked runs; negative: any number
	found   Verification

	file   string
	number int  // of the line in the file
	closes bool // this line is a checkpoint that covers all lines before it
	pieces []piece
	seen   map[string]bool // the chains so far
	recent []byte          // the end of the file so far: maxBefore bytes at least, if there are so many

	known bool // run is the one that the lines belong to
	run
	marked  *run  // the last run that leaves marks, if that of the lines is of a release that did not
	named   int64 // bytes before the last line that is about the chain
	carried int   // lines before the chain that its first checkpoint vouches for
	loose   int   // lines since the last that is covered, or will be
	read    int64 // bytes of all lines so far
	vouched int64 // of them, those up to the last that is covered, or will be
	closed  int64 // of them, those up to a checkpoint that covers all lines before it
}

// A run is what is known of the chain of one.
type run struct {
	log      string
	lost     bool             // it is broken: no value can be compared before the next line that says where it stands
	marks    bool             // it is of a release that leaves marks
	previous *mark            // that its first line names
	from     uint64           // lines of it before the first that is here
	sequence uint64           // of the last checkpoint
	points   map[uint64]point // where its checkpoints stand, by their sequence
	covered  uint64           // lines of the chain that checkpoints cover
	values   []place          // of the chain, after those and after each line since
}

// A piece is what a file has after its last line break. It is no line, though many
// programs read it as one.
type piece struct {
	file   string
	number int // of the line that it would be
	text   []byte
}

// A place is one between two lines of a chain.
type place struct {
	value [sha256.Size]byte
	read  int64 // bytes before it
}

// A Verification is what a Verifier has found.
type Verification struct {
	Files       int       `json:"files"`
	Lines       int       `json:"lines"`             // and what has no line break at the end of a file
	Checkpoints int       `json:"checkpoints"`       // with a signature that is good, over lines that are as they were
	Covered     int       `json:"covered"`           // lines that these checkpoints cover
	Before      int       `json:"before"`            // lines at the beginning, from before the log was signed
	After       int       `json:"after"`             // lines at the end that no checkpoint covers yet, and what has no line break there
	Follows     string    `json:"follows,omitempty"` // the run that the files before the first one end with
	Unlinked    []Problem `json:"unlinked"`          // runs that do not say which was before them, the first one aside
	Keys        []KeyUse  `json:"keys"`              // in the order in which they were given
	Problems    []Problem `json:"problems"`
	OK          bool      `json:"ok"` // there are checkpoints, no problem, and no more unlinked runs than are allowed
}

// A KeyUse says how many of the checkpoints a key has signed.
type KeyUse struct {
	ID          string `json:"id"` // SHA-256 of the public key (PKIX DER), in hex
	Checkpoints int    `json:"checkpoints"`
}

// A Problem is something that is not as the log was written.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line"` // where it was noticed, from 1
	Text string `json:"text"`
}

// NewVerifier returns a Verifier for logs whose checkpoints are signed by one of the
// keys, ECDSA or RSA: a log may be signed by another token's key after a restart.
func NewVerifier(keys ...crypto.PublicKey) (*Verifier, error) {
	if len(keys) == 0 {
		return nil, errors.New("audit: no key to verify checkpoints with")
	}
	v := &Verifier{keys: map[string]crypto.PublicKey{}, seen: map[string]bool{}, found: Verification{Problems: []Problem{}, Unlinked: []Problem{}}}
	for _, key := range keys {
		id, err := keyID(key)
		if err != nil {
			return nil, err
		}
		if v.keys[id] != nil {
			return nil, fmt.Errorf("audit: the key %s is given twice", id)
		}
		v.keys[id] = key
		v.found.Keys = append(v.found.Keys, KeyUse{ID: id})
	}
	return v, nil
}

// AllowUnlinked lets n runs begin without a word of the run before them, and any number
// if n is negative: by nature those that write to standard output do. Without a call it
// is none. That whole runs before such a one are missing, or elsewhere, is not found.
func (v *Verifier) AllowUnlinked(n int) { v.allowed = n }

// File reads the next file. The error is that of r.
func (v *Verifier) File(name string, r io.Reader) error {
	v.file, v.number, v.recent = name, 0, nil
	v.found.Files++
	lines := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if err == nil {
			v.line(line)
			continue
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("audit: %s: %w", name, err)
		}
		if len(line) > 0 {
			v.pieces = append(v.pieces, piece{name, v.number + 1, line})
		}
		return nil
	}
}

// Result returns what was found in all files.
func (v *Verifier) Result() Verification {
	r := v.found
	r.Keys, r.Problems, r.Unlinked = slices.Clone(r.Keys), slices.Clone(r.Problems), slices.Clone(r.Unlinked)
	r.Lines += len(v.pieces)
	if v.known || r.Checkpoints > 0 {
		r.After = v.loose + v.carried + len(v.pieces)
	} else {
		r.Before = v.loose + len(v.pieces)
	}
	r.OK = r.Checkpoints > 0 && len(r.Problems) == 0 && (v.allowed < 0 || len(r.Unlinked) <= v.allowed)
	return r
}

func (v *Verifier) problem(format string, args ...any) {
	v.found.Problems = append(v.found.Problems, v.here(format, args...))
}

// here returns what is to be said of this line.
func (v *Verifier) here(format string, args ...any) Problem {
	return Problem{v.file, v.number, fmt.Sprintf(format, args...)}
}

func (v *Verifier) line(line []byte) {
	v.number++
	v.found.Lines++
	var control struct {
		Operation  string          `json:"operation"`
		Chain      *chainLine      `json:"chain"`
		Checkpoint *checkpointLine `json:"checkpoint"`
	}
	// What is no JSON object may be the piece that a process has left which ended in the
	// middle of a line. If it is not, what the line was is in a value of the chain.
	err := json.Unmarshal(line, &control)
	ofChain := err == nil && control.Operation == chainOperation && control.Chain != nil
	if goesOn := ofChain && control.Chain.Lines > 0; !goesOn {
		v.endPieces(line)
	}
	switch {
	case err != nil:
	case ofChain:
		v.chain(*control.Chain)
	case control.Operation == checkpointOperation && control.Checkpoint != nil:
		v.checkpoint(*control.Checkpoint)
	}
	v.loose++
	v.read += int64(len(line))
	if v.closes {
		v.closed, v.closes = v.read, false
	}
	if v.known {
		v.values = append(v.values, place{link(v.last(), line), v.read})
		if v.lines() == 1 {
			v.passed(0, point{1, v.last()})
		}
	}
	v.remember(line)
}

// endPieces looks whether the pieces before line are its beginning: after a rotation a
// gateway writes a line anew that it could not end in the file before, and writes it
// first.
func (v *Verifier) endPieces(line []byte) {
	for _, p := range v.pieces {
		if !bytes.HasPrefix(line, p.text) {
			v.found.Lines++
			text := fmt.Sprintf("%d bytes without a line break end the file, and are not the beginning of a line in the next one: they were added, or a process ended there in the middle of a line", len(p.text))
			v.found.Problems = append(v.found.Problems, Problem{p.file, p.number, text})
		}
	}
	v.pieces = nil
}

// last returns the value of the chain after the lines so far.
func (r *run) last() [sha256.Size]byte { return r.values[len(r.values)-1].value }

// lines returns how many lines the chain has so far.
func (r *run) lines() uint64 { return r.covered + uint64(len(r.values)-1) }

func (v *Verifier) remember(line []byte) {
	if len(v.recent) > 2*maxBefore {
		v.recent = append(v.recent[:0], v.recent[len(v.recent)-maxBefore:]...)
	}
	v.recent = append(v.recent, line...)
}

// chain takes in a line that says where a chain stands.
func (v *Verifier) chain(c chainLine) {
	value, ok := sum(c.Value)
	if !ok || !isLogID(c.Log) || c.Previous != nil && !c.Previous.valid() {
		v.problem("the line about the chain is malformed")
		return
	}
	if c.Log != v.log && v.seen[c.Log] {
		v.problem("the run %s was here before: its lines, or a file, are here twice or out of order", c.Log)
	}
	switch {
	case v.known && c.Log == v.log:
		if !v.lost && (c.Lines != v.lines() || value != v.last()) {
			v.problem("lines before this one were changed, added or removed, after those that the last checkpoint covers")
			v.lost = true
		}
		if v.lost && c.Lines < v.covered {
			return // it goes back: what it says is wrong
		}
	case c.Lines == 0:
		v.begin(c)
		v.turn(c)
	default:
		if v.known {
			v.problem("the log %s goes on here, and the lines before are of another one", c.Log)
		} else if v.number > 1 {
			v.problem("the log %s goes on here, which it does in the first line of a file: the %d lines before are not of it", c.Log, v.number-1)
		}
		if !v.known {
			v.found.Follows = c.Log
		}
		v.passOver()
		v.turn(c)
	}
	if v.lost {
		v.covered, v.values = c.Lines, []place{{value, v.read}}
	}
	v.known, v.lost, v.named = true, false, v.read
}

// turn leaves the run so far for the one of c.
func (v *Verifier) turn(c chainLine) {
	if v.marks {
		before := v.run
		v.marked = &before
	}
	marks := c.Lines > 0 || c.Previous != nil || c.Unmarked != ""
	v.run = run{log: c.Log, lost: true, marks: marks, previous: c.Previous, from: c.Lines}
	v.seen[c.Log] = true
}

// begin looks at what a chain that begins says of the lines before it. That is signed
// with the chain, and so holds also where these lines name no chain of their own.
func (v *Verifier) begin(c chainLine) {
	if v.closed == v.read { // the last line is a checkpoint: its own signature covers it
		v.found.Covered += v.loose
		v.loose, v.vouched = 0, v.read
	}
	same := v.sameBefore(c)
	tied := same && v.named >= v.read-c.BeforeBytes && c.BeforeBytes > 0
	whole := v.follows(c, tied)
	switch {
	case !same || !v.known:
		v.passOver()
	case v.read-v.vouched > c.BeforeBytes && !whole:
		v.problem("no checkpoint covers the %d lines before this one: their process ended without one", v.loose)
		v.passOver()
	default:
		v.carried, v.loose, v.vouched = v.carried+v.loose, 0, v.read
	}
}

// sameBefore reports whether what stands in the file before a chain that begins is what
// stood there when it was opened.
func (v *Verifier) sameBefore(c chainLine) bool {
	n := int64(len(v.recent))
	if c.BeforeBytes > n || c.BeforeBytes < 0 {
		v.problem("there were more bytes before this line when the log was opened: %d", c.BeforeBytes)
		return false
	}
	before := sha256.Sum256(v.recent[n-c.BeforeBytes:])
	if c.BeforeBytes > 0 && c.Before != hex.EncodeToString(before[:]) {
		v.problem("lines before this one were changed, added or removed after the log was opened")
		return false
	}
	return true
}

// passOver leaves out the lines so far that nothing vouches for: no checkpoint that
// follows covers them.
func (v *Verifier) passOver() {
	if !v.known {
		v.found.Before += v.loose
	}
	v.carried, v.loose, v.vouched = 0, 0, v.read
}

// checkpoint looks at a signature, and at the lines that it covers.
func (v *Verifier) checkpoint(c checkpointLine) {
	key := v.keys[c.Key]
	switch {
	case key == nil:
		v.problem("checkpoint %d is signed by another key: %s", c.Sequence, shown(c.Key))
		return
	case !verifies(key, c.signed(), c.Signature):
		v.problem("the signature of checkpoint %d is wrong", c.Sequence)
		return
	case !v.known:
		v.problem("the beginning of the log %s is not in these files", shown(c.Log))
		return
	case c.Log != v.log:
		v.problem("the checkpoint is of the log %s, and the lines before it are of %s", shown(c.Log), v.log)
		return
	case c.Sequence <= v.sequence:
		v.problem("checkpoint %d comes after checkpoint %d", c.Sequence, v.sequence)
		return
	}
	v.sequence, v.named = c.Sequence, v.read
	if v.lost {
		return
	}
	value, ok := sum(c.Value)
	if c.Lines < v.covered && ok { // of lines in the file before, which is not here
		return
	}
	if !ok || c.Lines > v.lines() || v.values[c.Lines-v.covered].value != value {
		v.lost = true
		v.problem("lines that checkpoint %d covers were changed, added or removed; what follows, up to the next file, could not be checked", c.Sequence)
		return
	}
	v.passed(c.Sequence, point{c.Lines, value})
	after := int(v.lines() - c.Lines)
	v.found.Checkpoints++
	v.found.Keys[slices.IndexFunc(v.found.Keys, func(k KeyUse) bool { return k.ID == c.Key })].Checkpoints++
	v.found.Covered += v.carried + v.loose - after
	v.carried, v.loose = 0, after
	v.values = append([]place(nil), v.values[c.Lines-v.covered:]...)
	v.vouched = v.values[0].read
	v.covered = c.Lines
	v.closes = after == 0
}

// sum reads a SHA-256 value in hex.
func sum(text string) (value [sha256.Size]byte, ok bool) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(value) {
		return value, false
	}
	return [sha256.Size]byte(b), true
}

// isLogID reports whether text can be the name of a chain.
func isLogID(text string) bool {
	b, err := hex.DecodeString(text)
	return err == nil && len(b) == logIDSize
}

// shown returns text of a line, which may be forged, as it can be shown on a terminal:
// as it is if it is hex, as names of keys and chains are, else quoted and cut.
func shown(text string) string {
	if _, err := hex.DecodeString(text); err == nil && len(text) <= 2*sha256.Size {
		return text
	}
	return fmt.Sprintf("%.64q", text)
}
