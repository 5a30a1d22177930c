package hsm

import (
	"container/list"
	"sync"
	"time"
)

// A queue holds the calls that wait for a worker. Callers (kms.CallerOf) take
// turns, so that one with a thousand calls does not keep another from his first;
// each one's calls are in the order in which they came.
type queue struct {
	workers int           // that share it, for estimates
	limit   int           // of calls that wait. Half of them may be one caller's
	wait    time.Duration // a call waits no longer

	mu     sync.Mutex
	some   sync.Cond // there is a call, or the queue is closed
	lines  map[string]*line
	turns  list.List // of *line, each with calls; in front whose turn it is
	n      int       // calls that wait
	idle   int       // workers that wait
	closed bool

	mean     time.Duration // of late calls, 0: none has ended
	progress time.Time     // when a call last began or ended
}

// A line is what waits for one caller.
type line struct {
	caller string
	jobs   list.List
	turn   *list.Element
}

func newQueue(workers, limit int, wait time.Duration) *queue {
	q := &queue{workers: workers, limit: limit, wait: wait, lines: make(map[string]*line), progress: time.Now()}
	q.some.L = &q.mu
	return q
}

// push puts j into the queue, or returns why it is of no use to wait: errQueueFull
// or errBusy. left is the time that the caller has.
func (q *queue) push(j *job, left time.Duration) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[j.caller]
	if q.idle <= q.n {
		if err := q.refuse(l, min(left, q.wait)); err != nil {
			return err
		}
	}
	if l == nil {
		l = &line{caller: j.caller}
		l.turn = q.turns.PushBack(l)
		q.lines[j.caller] = l
	}
	j.line, j.place = l, l.jobs.PushBack(j)
	q.n++
	q.some.Signal()
	return nil
}

// refuse returns why another call of l's caller cannot begin within left. It is let
// in only if it has twice the time that is estimated: the pace varies, and to be
// refused late is worse than to be refused at once. A queue half as long keeps the
// workers as busy.
func (q *queue) refuse(l *line, left time.Duration) error {
	own := 0
	if l != nil {
		own = l.jobs.Len()
	}
	switch {
	case q.n >= q.limit || own >= max(q.limit/2, 1):
		return errQueueFull
	case q.stalled(time.Now()) || q.estimate(own) > left/2:
		return errBusy
	}
	return nil
}

// estimate returns how long a call waits before which own calls of its caller are
// in the queue: those, as many of each other caller, and the rest of one that
// runs, at the pace of late.
func (q *queue) estimate(own int) time.Duration {
	ahead := min(q.n, own+(own+1)*len(q.lines)) // at most: where its caller has a line it is among these
	return time.Duration(ahead) * q.mean / time.Duration(max(q.workers, 1))
}

// stalled reports whether the module seems to hang: all workers are in it, and no
// call has begun or ended for as long as one may wait.
func (q *queue) stalled(now time.Time) bool {
	return q.idle == 0 && now.Sub(q.progress) > q.wait
}

// hangs is stalled for callers that do not hold mu.
func (q *queue) hangs() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.stalled(time.Now())
}

// pop waits for the next call. It returns nil when the queue is closed.
func (q *queue) pop() *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.idle++
	defer func() { q.idle-- }()
	for q.n == 0 && !q.closed {
		q.some.Wait()
	}
	if q.closed {
		return nil
	}
	l := q.turns.Front().Value.(*line)
	q.turns.MoveToBack(l.turn)
	j := l.jobs.Front().Value.(*job)
	q.drop(j)
	q.progress = time.Now()
	return j
}

// remove takes out a call whose caller has left, if no worker has taken it.
func (q *queue) remove(j *job) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if j.place != nil {
		q.drop(j)
	}
}

func (q *queue) drop(j *job) {
	l := j.line
	l.jobs.Remove(j.place)
	j.place = nil
	q.n--
	if l.jobs.Len() == 0 {
		q.turns.Remove(l.turn)
		delete(q.lines, l.caller)
	}
}

// meanWeight is how many late calls the mean is about.
const meanWeight = 16

// ended takes note of a call that has ended now, and how long it took.
func (q *queue) ended(took time.Duration, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.progress = now
	took = min(took, q.wait) // one that hung tells nothing of the next
	if q.mean == 0 {
		q.mean = took
	}
	q.mean += (took - q.mean) / meanWeight
}

func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.some.Broadcast()
}
