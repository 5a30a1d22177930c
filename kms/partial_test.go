package kms_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/kms"
)

// A halved root says of its ciphertexts that a part of it made them, while half is set.
type halved struct {
	kms.Root
	half atomic.Bool
}

func (h *halved) Partial([]byte) bool { return h.half.Load() }

func (h *halved) Degraded() []string { return []string{"second"} }

// A branch key that only a part of the root opens is replaced after a minute, so that
// little is sealed with it when the other part is back; one of the whole root is not.
func TestHS17_ABranchKeyOfAPartOfTheRootIsReplacedSoon(t *testing.T) {
	n := newBranchNode(t, nil)
	root := &halved{Root: n.root}
	root.half.Store(true)
	var err error
	n.KMS, err = kms.New(n.cfg, root, n.store)
	ok(t, err)
	before := n.root.encrypts.Load()
	dek, ciphertext := n.generate(t)
	n.clock.advance(2 * time.Minute)
	root.half.Store(false)
	for range 3 {
		n.generate(t)
		n.clock.advance(10 * time.Minute)
	}
	if made := n.root.encrypts.Load() - before; made != 2 {
		t.Errorf("%d branch keys were made, not one with a part of the root and one with all of it", made)
	}
	opens(t, n.KMS, dek, ciphertext)
	if s := n.Status(t.Context()); s.Root != nil || len(s.Degraded) != 1 || s.Degraded[0] != "second" {
		t.Errorf("the status is %+v", s)
	}
}
