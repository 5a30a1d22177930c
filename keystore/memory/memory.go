// Package memory keeps key records in this process: for tests, for trials, and
// as the model of what a store promises. The records end with the process.
package memory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/keygate/keygate/keystore"
)

// errClosed is wrapped with keystore.ErrUnavailable: it says nothing of what
// the store holds.
var errClosed = errors.New("store is closed")

// A Store is a keystore.Store in memory. Nodes of one process that share a
// *Store share its records. Make one with New.
type Store struct {
	mu      sync.RWMutex
	records map[string]entry
	writes  uint64 // counts writes to all names, so that no revision repeats
	closed  bool
	ended   chan struct{} // closed by Close
	watches map[*watch]bool
}

var _ keystore.Store = (*Store)(nil)

type entry struct {
	record []byte
	rev    keystore.Revision
}

// New returns an empty store.
func New() *Store {
	return &Store{records: make(map[string]entry), ended: make(chan struct{}), watches: make(map[*watch]bool)}
}

// Create stores a copy of record under name.
func (s *Store) Create(ctx context.Context, name string, record []byte) error {
	if err := keystore.CheckWrite(ctx, name, record); err != nil {
		return fmt.Errorf("memory: create: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return closedError("create")
	}
	if _, ok := s.records[name]; ok {
		return fmt.Errorf("memory: create: %w", keystore.ErrExists)
	}
	s.put(name, record)
	return nil
}

// Get returns a copy of the record.
func (s *Store) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	if err := keystore.Check(ctx, name); err != nil {
		return nil, "", fmt.Errorf("memory: get: %w", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, "", closedError("get")
	}
	e, ok := s.records[name]
	if !ok {
		return nil, "", fmt.Errorf("memory: get: %w", keystore.ErrNotFound)
	}
	return copyOf(e.record), e.rev, nil
}

// Update replaces the record by a copy of record if its revision is rev.
func (s *Store) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	if err := keystore.CheckWrite(ctx, name, record); err != nil {
		return fmt.Errorf("memory: update: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.expect(name, rev); err != nil {
		return fmt.Errorf("memory: update: %w", err)
	}
	s.put(name, record)
	return nil
}

// Delete removes the record if its revision is rev.
func (s *Store) Delete(ctx context.Context, name string, rev keystore.Revision) error {
	if err := keystore.Check(ctx, name); err != nil {
		return fmt.Errorf("memory: delete: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.expect(name, rev); err != nil {
		return fmt.Errorf("memory: delete: %w", err)
	}
	delete(s.records, name)
	s.tell(name)
	return nil
}

// List returns up to n names after the name after, sorted.
func (s *Store) List(ctx context.Context, prefix, after string, n int) ([]string, error) {
	if err := keystore.CheckList(ctx, prefix, after); err != nil {
		return nil, fmt.Errorf("memory: list: %w", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, closedError("list")
	}
	names := []string{}
	for name := range s.records {
		if name > after && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names[:min(max(n, 0), len(names))], nil
}

// Status returns nil until the store is closed.
func (s *Store) Status(ctx context.Context) error {
	if err := keystore.CheckAlive(ctx); err != nil {
		return fmt.Errorf("memory: status: %w", err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return closedError("status")
	}
	return nil
}

// Close forgets the records. Calls after it return keystore.ErrUnavailable.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		close(s.ended)
	}
	s.closed, s.records = true, nil
	return nil
}

// put stores a copy of record with a new revision; s.mu is held.
func (s *Store) put(name string, record []byte) {
	s.writes++
	s.records[name] = entry{copyOf(record), keystore.Revision(strconv.FormatUint(s.writes, 10))}
	s.tell(name)
}

// expect checks that name is at rev; s.mu is held.
func (s *Store) expect(name string, rev keystore.Revision) error {
	if s.closed {
		return fmt.Errorf("%w: %w", keystore.ErrUnavailable, errClosed)
	}
	e, ok := s.records[name]
	if !ok {
		return keystore.ErrNotFound
	}
	if e.rev != rev {
		return keystore.ErrConflict
	}
	return nil
}

// copyOf returns a copy that is not nil, so that an empty record reads as one.
func copyOf(b []byte) []byte { return append([]byte{}, b...) }

func closedError(op string) error {
	return fmt.Errorf("memory: %s: %w: %w", op, keystore.ErrUnavailable, errClosed)
}
