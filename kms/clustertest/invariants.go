package clustertest

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/kms"
)

// check checks what holds of a key whatever fails:
//   - one create succeeds at most, and the key has one id for ever, also when it was
//     deleted;
//   - what a client was given a ciphertext of can be opened, unless the key was
//     deleted or a node cannot tell;
//   - a key that is known to exist is not "no such key" afterwards, and is not pending
//     deletion before its delete began;
//   - bound after a delete or a change of mode has returned, it holds on all nodes.
func (h *history) check(t *testing.T) {
	t.Helper()
	for _, v := range h.violations() {
		t.Errorf("%s: %s: %v", h.name, v.rule, v.call)
	}
}

// A violation is a call that cannot be, after the others.
type violation struct {
	rule string
	call call
}

func (h *history) violations() (all []violation) {
	found := func(rule string, c call) { all = append(all, violation{rule, c}) }
	var id kms.KeyID
	created := 0
	known := h.first(func(c call) bool { return c.err == nil }, call.end)
	deleting := h.first(func(c call) bool { return c.op == "delete" }, call.begin)
	deleted := h.first(func(c call) bool { return c.op == "delete" && c.err == nil }, call.end)
	for _, c := range h.calls {
		if c.op == "create" && c.err == nil {
			created++
		}
		if id == (kms.KeyID{}) {
			id = c.id
		}
		switch {
		case c.id != id && c.id != (kms.KeyID{}):
			found("another id", c)
		case created > 1:
			found("created again", c)
			created = 1
		case c.wrong:
			found("opened to something else", c)
		case !c.mayAnswer():
			found("no answer that may be", c)
		case errors.Is(c.err, kms.ErrKeyNotFound) && c.began > known:
			found("lost", c)
		case errors.Is(c.err, kms.ErrPendingDeletion) && c.ended < deleting:
			found("pending deletion before its delete", c)
		case c.uses() && c.began > deleted+bound:
			found("of use after its delete", c)
		case c.op == "generate" && c.err == nil && !slices.Contains(h.modes(c.began), c.mode):
			found("made in a mode of before", c)
		}
	}
	return all
}

const never = time.Duration(1 << 60)

func (c call) begin() time.Duration { return c.began }
func (c call) end() time.Duration   { return c.ended }

// first returns when the first of some calls began, or ended.
func (h *history) first(is func(call) bool, when func(call) time.Duration) time.Duration {
	first := never
	for _, c := range h.calls {
		if is(c) {
			first = min(first, when(c))
		}
	}
	return first
}

// mayAnswer reports whether the call may ever return its error.
func (c call) mayAnswer() bool {
	may := []error{nil, kms.ErrUnavailable, kms.ErrPendingDeletion, kms.ErrKeyNotFound}
	if c.op == "create" {
		may[3] = kms.ErrKeyExists
	}
	return slices.ContainsFunc(may, func(err error) bool { return errors.Is(c.err, err) })
}

// uses reports whether the call has used the key, or was told that it can be.
func (c call) uses() bool {
	switch c.op {
	case "generate", "decrypt", "branch", "direct", "create":
		return c.err == nil
	}
	return c.enabled
}

// modes returns in which modes a call that began then may be done: of each change that
// is not known to have been undone by another, more than bound before. One of unknown
// outcome may be done within bound after its call.
func (h *history) modes(began time.Duration) (modes []envelope.Mode) {
	for _, c := range h.calls {
		mode, ok := c.sets()
		done := c.ended
		if c.err != nil {
			done += bound
		}
		undone := func(later call) bool {
			_, ok := later.sets()
			return ok && later.err == nil && later.began > done && later.ended+bound < began
		}
		if ok && !slices.ContainsFunc(h.calls, undone) {
			modes = append(modes, mode)
		}
	}
	return modes
}

// sets returns the mode that a call may have set.
func (c call) sets() (envelope.Mode, bool) {
	if c.err != nil && !errors.Is(c.err, kms.ErrUnavailable) {
		return 0, false
	}
	switch c.op {
	case "create", "branch":
		return envelope.Branch, true
	case "direct":
		return envelope.Direct, true
	}
	return 0, false
}
