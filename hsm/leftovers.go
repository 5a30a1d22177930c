package hsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
)

// Each time that an op begins to make a key in the token, the key has another name: an
// HSM that answered with a time-out may make it later, when the next one is there. What
// may be left is destroyed in the background: see cleaner.

// maxMade is how many keys an op may begin to make: in each of its tries one, and one
// more where settle repeats it.
const maxMade = 2 * maxTries

// errBegun is in the error of an op that has begun to make a key in the token.
var errBegun = errors.New("if a key was made in the token all the same, it is destroyed")

var errLeftovers = fmt.Errorf("hsm: too many keys wait to be destroyed: %w", kms.ErrUnavailable)

// A begun counts the keys that an op has begun to make in the token. Of an op without
// one it is none.
type begun struct{ n atomic.Int32 }

func (b *begun) count() int {
	if b == nil {
		return 0
	}
	return min(int(b.n.Load()), maxMade)
}

// says has b be n, if there is one.
func (b *begun) says(n int32) {
	if b != nil {
		b.n.Store(n)
	}
}

// numbered returns o or, if it makes a key that is to be in the token, a copy for the
// tries of one backend. It has a number then: no key is wrapped where none is to be.
func (c Config) numbered(o *op) *op {
	if o.kind != opNewKey || c.Residency != residencyToken && !o.resident() {
		return o
	}
	mine := *o
	mine.begun = new(begun)
	if !o.resident() {
		mine.number = newNumber()
	}
	return &mine
}

// nth returns the name of the key that o makes after it has begun so many others.
func (o *op) nth(n int) keyHandle {
	h := keyHandle{wrapping: inToken, purpose: o.purpose, id: o.id, kek: o.number}
	binary.BigEndian.PutUint64(h.kek[:], binary.BigEndian.Uint64(o.number[:])+uint64(n))
	return h
}

// leftovers returns the ops that destroy what o may have left in the token, if it
// answered handle or, where that is nil, failed: one for each name, since a token with
// many objects may take long to look for one.
func (o *op) leftovers(handle []byte) (all []*op) {
	for n := range o.begun.count() {
		h := o.nth(n)
		if handle != nil && bytes.HasPrefix(handle, h.head()) {
			break
		}
		all = append(all, &op{kind: opDestroy, id: h.id, number: h.kek})
	}
	return all
}

// A cleaner destroys the keys that ops may have left in the token: their names are
// nobody else's. It looks again later, since the HSM may be late.
type cleaner struct {
	log     *slog.Logger
	wait    time.Duration // Config.Timeout
	destroy func(context.Context, *op) error

	mu      sync.Mutex
	all     []*leftover
	closed  bool
	more    chan struct{} // gets a message when there is one more; nil: work does not run yet
	closing chan struct{}
	life    context.Context
	end     context.CancelFunc // of life
	ended   chan struct{}      // closed when work has ended
}

// A leftover is a key that may be there.
type leftover struct {
	op         *op // that destroys it
	since, due time.Time
	pause      time.Duration // after a failure
	looks      int           // that ended well
}

const (
	// cleanFor is how long it is tried to destroy what cannot be destroyed, with pauses
	// from lastPause to cleanPause.
	cleanFor   = time.Hour
	cleanPause = time.Minute
	// maxLeftovers bounds what a cleaner remembers.
	maxLeftovers = 1 << 14
)

// lookAgain is when a cleaner looks again, after the first time and each next one, in
// multiples of Config.Timeout.
var lookAgain = [...]time.Duration{1, 8}

// after destroys, some time, what o may have left in the token; see leftovers.
func (c *cleaner) after(o *op, handle []byte) {
	left := o.leftovers(handle)
	if len(left) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		c.giveUp(left[0], len(left), errClosed)
		return
	case len(c.all) >= maxLeftovers:
		c.giveUp(left[0], len(left), errLeftovers)
		return
	}
	for _, l := range left {
		now := time.Now()
		c.all = append(c.all, &leftover{op: l, since: now, due: now})
	}
	if c.more == nil {
		c.more, c.closing, c.ended = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
		c.life, c.end = context.WithCancel(context.Background())
		go c.work()
	}
	select {
	case c.more <- struct{}{}:
	default:
	}
}

// giveUp says that so many keys may stay, the first of which o was to destroy.
func (c *cleaner) giveUp(o *op, keys int, err error) {
	c.log.Warn("hsm: keys that nobody has may be in the token: keygate hsm doctor shows them", "keys", keys, "object", fmt.Sprintf("%x", o.nth(0).objectID()), "error", err)
}

func (c *cleaner) work() {
	defer close(c.ended)
	for {
		l, pause := c.next(time.Now())
		if l != nil {
			c.clean(l)
			pause = 0
		}
		select {
		case <-c.closing:
			c.last()
			return
		case <-c.more:
		case <-time.After(pause):
		}
	}
}

// next returns one that is due, or how long none is.
func (c *cleaner) next(now time.Time) (*leftover, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pause := cleanPause
	for _, l := range c.all {
		left := l.due.Sub(now)
		if left <= 0 {
			return l, 0
		}
		pause = min(pause, left)
	}
	return nil, pause
}

// clean looks for l once, and says when to look next.
func (c *cleaner) clean(l *leftover) {
	err := c.destroy(c.life, l.op)
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil && l.looks < len(lookAgain):
		l.due, l.pause = now.Add(lookAgain[l.looks]*c.wait), 0
		l.looks++
	case err == nil:
		c.drop(l)
	case now.Sub(l.since) > cleanFor:
		c.drop(l)
		c.giveUp(l.op, 1, err)
	default:
		l.pause = min(max(2*l.pause, lastPause), cleanPause)
		l.due = now.Add(l.pause)
	}
}

func (c *cleaner) drop(l *leftover) {
	c.all = slices.DeleteFunc(c.all, func(other *leftover) bool { return other == l })
}

// last looks once more for what has not been looked for.
func (c *cleaner) last() {
	var first *op
	var failed error
	n := 0
	for _, l := range c.all { // closed: it does not change any longer
		if l.looks > 0 {
			continue
		}
		err := c.life.Err()
		if err == nil {
			err = c.destroy(c.life, l.op)
		}
		if err != nil && n == 0 {
			first, failed = l.op, err
		}
		if err != nil {
			n++
		}
	}
	if n > 0 {
		c.giveUp(first, n, failed)
	}
}

// close ends the work, which takes no longer than a call may.
func (c *cleaner) close() {
	c.mu.Lock()
	works := c.more != nil && !c.closed
	c.closed = true
	c.mu.Unlock()
	if works {
		late := time.AfterFunc(c.wait, c.end)
		close(c.closing)
		<-c.ended
		late.Stop()
		c.end()
	}
}
