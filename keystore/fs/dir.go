package fs

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// A dir is the open directory of a store, once its identity was proven. It is
// counted: the last user closes it.
type dir struct {
	fd       int
	self     fileID // of the directory
	identity fileID // of the identity file in it
	users    int    // guarded by Store.mu; the store is one while dir is current
	settled  atomic.Pointer[unix.Timespec]
}

// A fileID tells one file, unchanged, from another.
type fileID struct {
	dev, ino     uint64
	mtime, ctime unix.Timespec // zero for a directory: entries change them
}

func dirID(st *unix.Stat_t) fileID { return fileID{dev: uint64(st.Dev), ino: st.Ino} }

func regularID(st *unix.Stat_t) fileID {
	return fileID{dev: uint64(st.Dev), ino: st.Ino, mtime: st.Mtim, ctime: st.Ctim}
}

// acquire returns the directory of the store after checking that what is at
// the path now is that directory and bears the identity; the caller must
// release it. A missing or other directory, such as an empty file system
// mounted over it, is ErrUnavailable, and all is well again when the right one
// is back. In the steady state this costs two stat calls.
func (s *Store) acquire() (*dir, error) {
	s.mu.Lock()
	d := s.dir
	if s.closed {
		s.mu.Unlock()
		return nil, unavailable("store is closed")
	}
	if d != nil {
		d.users++
	}
	s.mu.Unlock()
	if d != nil {
		if s.verify(d) == nil {
			return d, nil
		}
		s.release(d)
	}
	return s.reopen()
}

// release ends a use of d.
func (s *Store) release(d *dir) {
	s.mu.Lock()
	d.users--
	last := d.users == 0
	s.mu.Unlock()
	if last {
		s.sys.close(d.fd)
	}
}

// verify returns nil if d is still what is found at the path, with the same
// identity file in it.
func (s *Store) verify(d *dir) error {
	var st unix.Stat_t
	if err := again(func() error { return s.sys.stat(s.path, &st) }); err != nil {
		return classify("stat", err)
	}
	if dirID(&st) != d.self {
		return unavailable("the directory was replaced")
	}
	if err := s.checkDir(&st); err != nil {
		return err
	}
	if err := again(func() error { return s.sys.fstatat(d.fd, identityFile, &st) }); err != nil {
		return classify("stat identity", err)
	}
	if regularID(&st) != d.identity {
		return unavailable("the identity file was replaced")
	}
	return nil
}

// reopen opens what is at the path, proves its identity and makes it current.
func (s *Store) reopen() (*dir, error) {
	d, err := s.openDir()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.sys.close(d.fd)
		return nil, unavailable("store is closed")
	}
	old := s.dir
	s.dir = d
	d.users = 2 // the store and the caller
	s.mu.Unlock()
	if old != nil {
		s.release(old)
	}
	return d, nil
}

// openDir opens the directory at the path if it is the one of this cluster.
func (s *Store) openDir() (*dir, error) {
	fd, err := again1(func() (int, error) {
		return s.sys.openat(unix.AT_FDCWD, s.path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	})
	if err != nil {
		return nil, classify("open", err)
	}
	d := &dir{fd: fd}
	if err := s.identify(d); err != nil {
		s.sys.close(fd)
		return nil, err
	}
	return d, nil
}

// identify fills in what tells d from other directories and checks that it is
// the directory of this cluster.
func (s *Store) identify(d *dir) error {
	var st unix.Stat_t
	if err := again(func() error { return s.sys.fstat(d.fd, &st) }); err != nil {
		return classify("fstat", err)
	}
	if err := s.checkDir(&st); err != nil {
		return err
	}
	d.self = dirID(&st)
	got, id, err := s.readIdentity(d.fd)
	if err != nil {
		return err
	}
	if got != s.identity {
		return unavailable("the directory is of cluster %q, not %q", got, s.identity)
	}
	d.identity = id
	return nil
}

// checkDir refuses a directory in which others could replace files.
func (s *Store) checkDir(st *unix.Stat_t) error {
	if st.Uid != s.uid {
		return unavailable("the directory is owned by uid %d, not %d", st.Uid, s.uid)
	}
	if st.Mode&0o022 != 0 {
		return unavailable("the directory has mode %04o: others can write to it", st.Mode&0o7777)
	}
	return nil
}

var _ keystore.Store = (*Store)(nil)
