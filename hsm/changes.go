package hsm

import (
	"context"
	"sync"
	"time"
)

// Changes are the calls that make or destroy objects of a token, which go one at a time.
// Modules that do so in several threads at once, as SoftHSM 2.6.1, fail now and then.
// That is no reason to make nothing for as long as one call hangs: after a time others
// need not wait for it any longer, and if the module then fails, they may be repeated.
type changes struct {
	place chan struct{} // has room for one

	mu    sync.Mutex
	now   *change          // has the place; nil: nobody, or one that has just taken it
	begun map[*change]bool // those that have not ended, also if the place was taken from them
}

// A change is one call, or a few for one purpose.
type change struct{ since time.Time }

func newChanges() *changes {
	return &changes{place: make(chan struct{}, 1), begun: make(map[*change]bool)}
}

// take returns when no other has the place, or one has had it for so long, which loses
// it. While such a one has not ended, may says whether others may begin. The next may
// when letGo is called.
func (q *changes) take(ctx context.Context, long time.Duration, may func() bool) (letGo func(), err error) {
	for {
		look := time.NewTimer(q.left(long))
		place := q.place
		if q.barred(may) {
			place = nil
		}
		select {
		case place <- struct{}{}:
			letGo = q.begin(may)
		case <-look.C:
			letGo = q.takeOver(long, may)
		case <-ctx.Done():
			err = waited(ctx, "wait for others that make or destroy keys in the token")
		}
		look.Stop()
		if letGo != nil || err != nil {
			return letGo, err
		}
	}
}

// left returns how long to wait before the one that has the place may have had it for
// long: a part of it if that has been so, or if nobody has it.
func (q *changes) left(long time.Duration) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.now == nil {
		return long / 16
	}
	return max(long-time.Since(q.now.since), long/16)
}

// barred reports whether nobody may begin, as one hangs whose place was taken.
func (q *changes) barred(may func() bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.barredLocked(may)
}

func (q *changes) barredLocked(may func() bool) bool {
	hung := len(q.begun)
	if q.now != nil {
		hung--
	}
	return hung > 0 && !may()
}

// begin begins the change of one that has just got the place, or gives that back and
// returns nil.
func (q *changes) begin(may func() bool) (letGo func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.barredLocked(may) {
		<-q.place
		return nil
	}
	return q.beginLocked()
}

func (q *changes) beginLocked() (letGo func()) {
	t := &change{since: time.Now()}
	q.now = t
	q.begun[t] = true
	return func() { q.end(t) }
}

// end gives the place to the next, if t has it still.
func (q *changes) end(t *change) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.begun, t)
	if q.now == t {
		q.now = nil
		<-q.place
	}
}

// takeOver takes the place from one that has had it for long, if others may go before
// it. It returns nil if not.
func (q *changes) takeOver(long time.Duration, may func() bool) (letGo func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.now == nil || time.Since(q.now.since) < long || !may() {
		return nil
	}
	return q.beginLocked()
}

// hang reports whether one has not ended for so long.
func (q *changes) hang(long time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for t := range q.begun {
		if time.Since(t.since) >= long {
			return true
		}
	}
	return false
}
