package fs

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// Get returns the record. The caller owns it.
func (s *Store) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	if err := keystore.Check(ctx, name); err != nil {
		return nil, "", fmt.Errorf("fs: get: %w", err)
	}
	record, rev, err := s.get(name)
	if err != nil {
		return nil, "", fmt.Errorf("fs: get: %w", err)
	}
	return record, rev, nil
}

func (s *Store) get(name string) ([]byte, keystore.Revision, error) {
	d, err := s.acquire()
	if err != nil {
		return nil, "", err
	}
	defer s.release(d)
	record, rev, err := s.readRecord(d, name)
	if err != nil {
		return nil, "", err
	}
	if err := s.settle(d); err != nil {
		return nil, "", err
	}
	return record, rev, nil
}

// readRecord reads the record of name, or returns ErrNotFound when the
// directory is still the store's after it was looked up in vain.
func (s *Store) readRecord(d *dir, name string) ([]byte, keystore.Revision, error) {
	file, _, err := s.readFile(d.fd, fileName(name), maxFile)
	if errors.Is(err, errAbsent) {
		if err := s.verify(d); err != nil {
			return nil, "", err
		}
		return nil, "", keystore.ErrNotFound
	}
	if err != nil {
		return nil, "", err
	}
	return decode(name, file)
}

// errAbsent is returned by readFile alone: the directory has no such file.
var errAbsent = errors.New("no such file")

// readFile reads a file of at most limit bytes that only this user can have
// written. O_NONBLOCK keeps a FIFO from holding up the open.
func (s *Store) readFile(dirfd int, file string, limit int) ([]byte, unix.Stat_t, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
	var st unix.Stat_t
	fd, err := again1(func() (int, error) { return s.sys.openat(dirfd, file, flags, 0) })
	switch err {
	case nil:
	case unix.ENOENT:
		return nil, st, errAbsent
	case unix.ELOOP:
		return nil, st, corrupt("%s is a symbolic link", file)
	case unix.ENXIO, unix.ENODEV:
		return nil, st, corrupt("%s is a socket or a device", file)
	default:
		return nil, st, classify("open "+file, err)
	}
	defer s.sys.close(fd)
	if err := again(func() error { return s.sys.fstat(fd, &st) }); err != nil {
		return nil, st, classify("fstat "+file, err)
	}
	if err := s.checkFile(file, &st, limit); err != nil {
		return nil, st, err
	}
	text, err := s.readAll(fd, int(st.Size))
	if err != nil {
		return nil, st, classify("read "+file, err)
	}
	return text, st, nil
}

// checkFile refuses what is not a private file of this user. More than one link
// is no fault: a crash between link and unlink leaves two.
func (s *Store) checkFile(file string, st *unix.Stat_t, limit int) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return corrupt("%s is not a regular file", file)
	case st.Uid != s.uid:
		return rights("%s is owned by uid %d, not %d", file, st.Uid, s.uid)
	case st.Mode&0o077 != 0:
		return rights("%s has mode %04o: others have rights to it", file, st.Mode&0o7777)
	case st.Size > int64(limit):
		return corrupt("%s has %d bytes, more than %d", file, st.Size, limit)
	}
	return nil
}

// readAll reads size bytes, or fewer where the file ends before.
func (s *Store) readAll(fd, size int) ([]byte, error) {
	p := make([]byte, size)
	for n := 0; n < size; {
		k, err := again1(func() (int, error) { return s.sys.read(fd, p[n:]) })
		if err != nil {
			return nil, err
		}
		if k == 0 {
			return p[:n], nil
		}
		n += k
	}
	return p, nil
}
