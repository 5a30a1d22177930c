package audit

import "sync"

// SubscriberBacklog is how many entries wait for a subscriber that is slower
// than the gateway. It does not get those that come when so many wait.
const SubscriberBacklog = 256

// subscribers is the set of those who follow the log.
type subscribers struct {
	mu     sync.RWMutex
	set    map[chan Entry]struct{}
	closed bool
}

// Subscribe returns a channel of all entries from now on. It never holds up a
// request: a subscriber that is too slow misses entries. The channel is closed
// by cancel, which may be called more than once, or when the Log is closed.
func (l *Log) Subscribe() (entries <-chan Entry, cancel func()) {
	c := make(chan Entry, SubscriberBacklog)
	l.subs.add(c)
	return c, func() { l.subs.remove(c) }
}

func (s *subscribers) add(c chan Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(c)
		return
	}
	if s.set == nil {
		s.set = make(map[chan Entry]struct{})
	}
	s.set[c] = struct{}{}
}

func (s *subscribers) remove(c chan Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.set[c]; ok {
		delete(s.set, c)
		close(c)
	}
}

func (s *subscribers) send(e *Entry) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for c := range s.set {
		select {
		case c <- *e:
		default:
		}
	}
}

func (s *subscribers) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.set {
		close(c)
	}
	s.set, s.closed = nil, true
}
