package fs

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// Init makes the store of a cluster: the directory at cfg.Path, if there is
// none, in a parent that exists, and the identity file in it, durably. The
// identity is the cluster's id in hex. A directory that is there already must
// be empty; to Init the store of the same identity again changes nothing, also
// after an Init that was cut short. Anything else is an error.
func Init(cfg Config, identity string) error {
	return initialize(cfg, identity, kernel{})
}

func initialize(cfg Config, identity string, sys system) error {
	s, err := newStore(cfg, identity, sys)
	if err != nil {
		return fmt.Errorf("fs: init: %w", err)
	}
	if err := s.init(); err != nil {
		return fmt.Errorf("fs: init %s: %w", s.path, err)
	}
	return nil
}

func (s *Store) init() error {
	if err := again(func() error { return s.sys.mkdir(s.path) }); err != nil && err != unix.EEXIST {
		return classify("mkdir", err)
	}
	if err := s.syncParent(); err != nil {
		return err
	}
	fd, err := again1(func() (int, error) {
		return s.sys.openat(unix.AT_FDCWD, s.path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	})
	if err != nil {
		return classify("open", err)
	}
	d := &dir{fd: fd}
	defer s.sys.close(fd)
	if err := s.claim(d); err != nil {
		return err
	}
	if err := s.identify(d); err != nil {
		return err
	}
	if err := again(func() error { return s.sys.fsync(fd) }); err != nil {
		return unknown("fsync directory", err)
	}
	return s.sweep(d)
}

// claim writes the identity file into an empty directory, and leaves any other
// that has one to identify.
func (s *Store) claim(d *dir) error {
	if _, _, err := s.readFile(d.fd, identityFile, maxIdentityFile); !errors.Is(err, errAbsent) {
		return err
	}
	if err := s.checkEmpty(d); err != nil {
		return err
	}
	if err := again(func() error { return s.sys.fchmod(d.fd, 0o700) }); err != nil {
		return classify("chmod", err)
	}
	temp, err := s.writeTemp(d, identityText(s.identity))
	if err != nil {
		return err
	}
	defer s.removeTemp(d, temp)
	if err := s.link(d, temp, identityFile); err != nil && !errors.Is(err, keystore.ErrExists) {
		return err
	}
	return nil // if another Init was first, identify tells whose
}

// checkEmpty allows for an Init that was cut short and for the root of an ext4
// volume.
func (s *Store) checkEmpty(d *dir) error {
	var other string
	err := s.each(d, func(file string) {
		if !isTemp(file) && file != "lost+found" {
			other = file
		}
	})
	if err == nil && other != "" {
		err = unavailable("the directory is no key store and not empty: it holds %q", other)
	}
	return err
}

// syncParent makes the directory's own entry durable.
func (s *Store) syncParent() error {
	fd, err := again1(func() (int, error) {
		return s.sys.openat(unix.AT_FDCWD, filepath.Dir(s.path), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	})
	if err != nil {
		return classify("open parent", err)
	}
	defer s.sys.close(fd)
	if err := again(func() error { return s.sys.fsync(fd) }); err != nil {
		return unknown("fsync parent", err)
	}
	return nil
}
