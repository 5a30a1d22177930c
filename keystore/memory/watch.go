package memory

import (
	"context"
	"fmt"

	"github.com/keygate/keygate/keystore"
)

// A watch is what one Watch has still to tell.
type watch struct {
	names map[string]bool // guarded by Store.mu
	some  chan struct{}   // has room for one: there are names
}

// Watch tells of each change at once.
func (s *Store) Watch(ctx context.Context, changed func(name string)) error {
	if err := keystore.CheckAlive(ctx); err != nil {
		return fmt.Errorf("memory: watch: %w", err)
	}
	w := &watch{make(map[string]bool), make(chan struct{}, 1)}
	s.mu.Lock()
	closed := s.closed
	s.watches[w] = true
	s.mu.Unlock()
	if closed {
		return closedError("watch")
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watches, w)
	}()
	changed("")
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("memory: watch: %w: %w", keystore.ErrUnavailable, ctx.Err())
		case <-s.ended:
			return closedError("watch")
		case <-w.some:
		}
		for name := range s.take(w) {
			changed(name)
		}
	}
}

// take returns what w has to tell, and forgets it.
func (s *Store) take(w *watch) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := w.names
	w.names = make(map[string]bool)
	return names
}

// tell has all watches tell of name; s.mu is held.
func (s *Store) tell(name string) {
	for w := range s.watches {
		w.names[name] = true
		select {
		case w.some <- struct{}{}:
		default:
		}
	}
}
