// Package fs keeps key records in the files of one directory: the default
// store. Many gateways may share the directory, on one machine or through a
// network file system with atomic link and rename, flock and fsync.
//
// One file holds one record, named for it (see fileName), mode 0600 in a
// directory of mode 0700. A file never changes: a write makes a temporary file
// durable first and then gives it its final name, so that at each moment, a
// crash included, there is the old record or the new one, whole. An error of
// the kernel after that step is ErrUnavailable: the change may have happened.
//
// The directory bears the identity of its cluster. While the directory is
// missing, or an empty or another one is in its place, every call returns
// ErrUnavailable, never ErrNotFound; it heals without a restart.
package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// Config says where the store is.
type Config struct {
	// Path is the directory of the records, made by Init. On a volume of its
	// own let it be a directory in that volume, not the mount point.
	Path string `yaml:"path"`
}

// A Store is a keystore.Store in a directory. Make one with Open.
type Store struct {
	path     string // absolute, so that a chdir does not move the store
	identity string
	uid      uint32 // owner of every file
	sys      system
	turn     chan struct{} // held by the one waiter of this process for the lock
	swept    atomic.Int64  // when temporary files were last swept, Unix ns
	ended    chan struct{} // closed by Close

	mu     sync.Mutex
	dir    *dir // nil while the store is unavailable
	closed bool
}

// Open returns the store in the directory that Init has made with the same
// identity. It fails only for a wrong cfg or identity: of a directory that is
// missing or not the right one each call tells, with keystore.ErrUnavailable,
// until it is there.
func Open(cfg Config, identity string) (*Store, error) {
	return open(cfg, identity, kernel{})
}

func open(cfg Config, identity string, sys system) (*Store, error) {
	s, err := newStore(cfg, identity, sys)
	if err != nil {
		return nil, fmt.Errorf("fs: open: %w", err)
	}
	if d, err := s.acquire(); err == nil {
		s.sweepDue(d)
		s.release(d)
	}
	return s, nil
}

func newStore(cfg Config, identity string, sys system) (*Store, error) {
	if cfg.Path == "" {
		return nil, fmt.Errorf("no path given")
	}
	if !validIdentity(identity) {
		return nil, fmt.Errorf("identity %q is not 1 to %d printable characters", identity, maxIdentity)
	}
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, err
	}
	return &Store{path: path, identity: identity, uid: uint32(os.Geteuid()), sys: sys, turn: make(chan struct{}, 1), ended: make(chan struct{})}, nil
}

// Close closes the directory once the calls that run are done. Calls after it
// return keystore.ErrUnavailable.
func (s *Store) Close() error {
	s.mu.Lock()
	d := s.dir
	if !s.closed {
		close(s.ended)
	}
	s.dir, s.closed = nil, true
	s.mu.Unlock()
	if d != nil {
		s.release(d)
	}
	return nil
}
