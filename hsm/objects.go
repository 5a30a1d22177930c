package hsm

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// An objectCount counts the calls of a library that make objects. Some tokens give the
// number of an object that is gone, since its session ended, to the next one: what is
// done with a number after that is done with another key. isNew finds that out when the
// next one is a key of ours, but a moment later; see session.sure.
type objectCount struct {
	making atomic.Int64
	made   atomic.Uint64
	known  atomic.Bool // it is known whether
	reused atomic.Bool // numbers are given twice
}

// enter says that such a call begins; what it returns says that it has ended.
func (c *objectCount) enter() (leave func()) {
	c.making.Add(1)
	return c.leave
}

func (c *objectCount) leave() {
	c.made.Add(1)
	c.making.Add(-1)
}

// now returns how many calls have ended, and whether none runs.
func (c *objectCount) now() (made uint64, quiet bool) {
	quiet = c.making.Load() == 0 // first: what has ended by then is in made
	return c.made.Load(), quiet
}

// findReuse finds out, once for a library, whether it gives numbers of objects, or of the
// objects of a session that has ended, to the next ones. Most count up, and need not be
// watched.
func (s session) findReuse() error {
	c := &s.link.module.objects
	if c.known.Load() {
		return nil
	}
	first, err := s.numbers(1)
	if err != nil {
		return err
	}
	next, err := s.numbers(2)
	if err != nil {
		return err
	}
	c.reused.Store(next[0] == next[1] || slices.Contains(next, first[0]))
	c.known.Store(true)
	return nil
}

// numbers returns those of objects that are made one after the other in a session, which
// ends then: one of its own, if the token has any left.
func (s session) numbers(n int) (all []pkcs11.ObjectHandle, err error) {
	other, err := s.link.open(0)
	if c, ok := classOf(err); ok && c == sessionFault {
		other, err = s, nil
	} else if err == nil {
		defer other.abandon()
	}
	for range n {
		if err != nil {
			break
		}
		var object pkcs11.ObjectHandle
		if object, err = other.ownKey(); err == nil {
			err = other.destroy(object)
		}
		all = append(all, object)
	}
	return all, err
}

// sure returns errStale unless the number of k, with which something was done just now,
// was that of its key then. It was if no object was made since that was seen last, or the
// token gives no number twice; else the key is used once more, for what only it can do.
func (s session) sure(k *loaded) error {
	if !s.link.module.objects.reused.Load() {
		return nil
	}
	made, quiet := s.link.module.objects.now()
	if quiet && k.seen.Load() == made {
		return nil
	}
	err := s.verify(k.object, k.handle)
	if c, ok := classOf(err); err != nil && (!ok || c.unsure() || c == objectFault) {
		s.link.broken.Store(true)
		return fmt.Errorf("hsm: the number of a loaded key is not its own any longer: %w", errors.Join(errStale, askedBefore(err)))
	}
	if err == nil && quiet {
		k.seen.Store(made)
	}
	return askedBefore(err)
}
