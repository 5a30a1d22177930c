package fs

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// Create writes the record to a temporary file and links that to its final
// name, which only one of any number of processes can do.
func (s *Store) Create(ctx context.Context, name string, record []byte) error {
	if err := keystore.CheckWrite(ctx, name, record); err != nil {
		return fmt.Errorf("fs: create: %w", err)
	}
	if err := s.create(name, record); err != nil {
		return fmt.Errorf("fs: create: %w", err)
	}
	return nil
}

func (s *Store) create(name string, record []byte) error {
	d, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release(d)
	temp, err := s.writeTemp(d, encode(name, record))
	if err != nil {
		return err
	}
	linked := s.link(d, temp, fileName(name))
	s.removeTemp(d, temp)
	if linked != nil && !errors.Is(linked, keystore.ErrExists) {
		return linked
	}
	// ErrExists too is told only of a record that is there to stay.
	if err := s.commit(d); err != nil {
		return err
	}
	return linked
}

// Update writes the record to a temporary file and renames that over the old
// one while it holds the lock that all processes share.
func (s *Store) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	if err := keystore.CheckWrite(ctx, name, record); err != nil {
		return fmt.Errorf("fs: update: %w", err)
	}
	if err := s.update(ctx, name, record, rev); err != nil {
		return fmt.Errorf("fs: update: %w", err)
	}
	return nil
}

func (s *Store) update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	d, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release(d)
	if err := s.expect(d, name, rev); err != nil {
		return err // before the cost of a write that cannot succeed
	}
	temp, err := s.writeTemp(d, encode(name, record))
	if err != nil {
		return err
	}
	err = s.swap(ctx, d, name, rev, func(file string) error {
		return s.sys.renameat(d.fd, temp, file)
	})
	if err != nil {
		s.removeTemp(d, temp)
		return err
	}
	return s.commit(d)
}

// Delete unlinks the record while it holds the lock that all processes share.
func (s *Store) Delete(ctx context.Context, name string, rev keystore.Revision) error {
	if err := keystore.Check(ctx, name); err != nil {
		return fmt.Errorf("fs: delete: %w", err)
	}
	if err := s.delete(ctx, name, rev); err != nil {
		return fmt.Errorf("fs: delete: %w", err)
	}
	return nil
}

func (s *Store) delete(ctx context.Context, name string, rev keystore.Revision) error {
	d, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release(d)
	err = s.swap(ctx, d, name, rev, func(file string) error {
		return s.sys.unlinkat(d.fd, file)
	})
	if err != nil {
		return err
	}
	return s.commit(d)
}

// swap calls change, which replaces or removes the record's file at once, if
// the record is still at rev, with the lock held from before the comparison
// until after the change.
func (s *Store) swap(ctx context.Context, d *dir, name string, rev keystore.Revision, change func(file string) error) error {
	unlock, err := s.lock(ctx, d)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.expect(d, name, rev); err != nil {
		return err
	}
	return classify("change of "+fileName(name), again(func() error { return change(fileName(name)) }))
}

// expect returns nil if the record is at rev.
func (s *Store) expect(d *dir, name string, rev keystore.Revision) error {
	_, now, err := s.readRecord(d, name)
	if err != nil {
		return err
	}
	if now != rev {
		return keystore.ErrConflict
	}
	return nil
}

// link gives temp its final name. A file system of the network may report that
// the name is taken because an earlier, unanswered attempt of this very call
// took it, so the two are compared: open(2), on O_EXCL and NFS.
func (s *Store) link(d *dir, temp, file string) error {
	err := again(func() error { return s.sys.linkat(d.fd, temp, file) })
	if err == nil {
		return nil
	}
	var a, b unix.Stat_t
	if s.sys.fstatat(d.fd, temp, &a) == nil && s.sys.fstatat(d.fd, file, &b) == nil && dirID(&a) == dirID(&b) {
		return nil
	}
	if err == unix.EEXIST {
		return keystore.ErrExists
	}
	return classify("link "+file, err)
}

// commit makes the change to the directory durable and checks that the
// directory is still the store's. An error of fsync is never followed by
// another attempt: the kernel has dropped what it could not write, and the
// second fsync would report success (fsync(2), NOTES).
func (s *Store) commit(d *dir) error {
	if err := again(func() error { return s.sys.fsync(d.fd) }); err != nil {
		return unknown("fsync directory", err)
	}
	if err := s.verify(d); err != nil {
		return unavailable("after the change: %v", err)
	}
	return nil
}
