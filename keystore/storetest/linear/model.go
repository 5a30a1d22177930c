package linear

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"

	"github.com/keygate/keygate/keystore"
)

// A kind is which method of a store was called.
type kind int

const (
	create kind = iota
	get
	update
	remove
)

func (k kind) String() string { return [...]string{"create", "get", "update", "delete"}[k] }

// An input is a call. Each write of a history has a record of its own, so that a
// record says which write it is of.
type input struct {
	kind   kind
	name   string
	node   int
	record string // of a write
	before string // the record whose revision an update or delete expects
}

// An output is what a call returned.
type output struct {
	record string // of a get
	rev    keystore.Revision
	err    error // one of the sentinels, or nil
}

// unknown reports whether the call may have been done, or not, or may be yet.
func (o output) unknown() bool { return o.err == keystore.ErrUnavailable }

// answers are what each method may return beside nil.
var answers = map[kind][]error{
	create: {keystore.ErrExists, keystore.ErrUnavailable},
	get:    {keystore.ErrNotFound, keystore.ErrUnavailable},
	update: {keystore.ErrConflict, keystore.ErrNotFound, keystore.ErrUnavailable},
	remove: {keystore.ErrConflict, keystore.ErrNotFound, keystore.ErrUnavailable},
}

// sentinel returns which answer of a call err is, and false if it is none.
func sentinel(k kind, err error) (error, bool) {
	if err == nil {
		return nil, true
	}
	for _, s := range answers[k] {
		if errors.Is(err, s) {
			return s, true
		}
	}
	return err, false
}

// model is what keystore.Store promises of one name. Its state is the record, ""
// for none. A write of unknown outcome returns at the end of time: there, nobody
// sees whether it was done, so that one state is enough for both.
var model = porcupine.Model{
	Partition: byName,
	Init:      func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		return step(state.(string), in.(input), out.(output))
	},
	DescribeOperation: func(in, out any) string { return describe(in.(input), out.(output)) },
	DescribeState: func(state any) string {
		return cmp.Or(state.(string), "absent")
	},
}

// step returns the record after a call, and whether a store that held state could
// answer so.
func step(state string, in input, out output) (ok bool, next string) {
	next, want := expect(state, in)
	switch {
	case in.kind == get:
		return out.err == want && out.record == state, state
	case out.unknown():
		return true, next
	}
	return out.err == want, next
}

// expect returns what a store that held state holds after a call, and its one answer.
func expect(state string, in input) (next string, answer error) {
	switch {
	case in.kind == create && state != "":
		return state, keystore.ErrExists
	case in.kind != create && state == "":
		return state, keystore.ErrNotFound
	case (in.kind == update || in.kind == remove) && state != in.before:
		return state, keystore.ErrConflict
	case in.kind == get:
		return state, nil
	}
	return in.record, nil // a delete has none
}

func byName(history []porcupine.Operation) [][]porcupine.Operation {
	names := make(map[string][]porcupine.Operation)
	for _, op := range history {
		name := op.Input.(input).name
		names[name] = append(names[name], op)
	}
	var parts [][]porcupine.Operation
	for _, part := range names {
		parts = append(parts, part)
	}
	slices.SortFunc(parts, func(a, b []porcupine.Operation) int {
		return cmp.Compare(a[0].Input.(input).name, b[0].Input.(input).name)
	})
	return parts
}

func describe(in input, out output) string {
	text := fmt.Sprintf("node %d: %v %s", in.node, in.kind, in.name)
	if in.before != "" {
		text += " at " + in.before
	}
	if in.record != "" {
		text += " to " + in.record
	}
	switch {
	case out.err != nil:
		return text + ": " + out.err.Error()
	case in.kind == get:
		return fmt.Sprintf("%s: %s, revision %.8s", text, out.record, out.rev)
	}
	return text + ": done"
}

// checkRevisions returns what is wrong with the revisions of a history: each is of
// one record, and no record has two.
func checkRevisions(history []porcupine.Operation) error {
	type state struct{ name, record string }
	type revision struct {
		name string
		rev  keystore.Revision
	}
	revs, records := make(map[state]keystore.Revision), make(map[revision]string)
	for _, op := range history {
		in, out := op.Input.(input), op.Output.(output)
		if in.kind != get || out.err != nil {
			continue
		}
		s, r := state{in.name, out.record}, revision{in.name, out.rev}
		if old, ok := revs[s]; ok && old != out.rev {
			return fmt.Errorf("record %s of %s has revisions %s and %s", out.record, in.name, old, out.rev)
		}
		if old, ok := records[r]; ok && old != out.record {
			return fmt.Errorf("revision %s of %s is of records %s and %s", out.rev, in.name, old, out.record)
		}
		revs[s], records[r] = out.rev, out.record
	}
	return nil
}
