package fs

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// List reads the whole directory: its cost is that of all names, so ask for
// many at a time.
func (s *Store) List(ctx context.Context, prefix, after string, n int) ([]string, error) {
	names, err := s.list(ctx, prefix, after, n)
	if err != nil {
		return nil, fmt.Errorf("fs: list: %w", err)
	}
	return names, nil
}

func (s *Store) list(ctx context.Context, prefix, after string, n int) ([]string, error) {
	if err := keystore.CheckList(ctx, prefix, after); err != nil {
		return nil, err
	}
	d, err := s.acquire()
	if err != nil {
		return nil, err
	}
	defer s.release(d)
	names := []string{}
	err = s.each(d, func(file string) {
		if name, ok := recordName(file); ok && name > after && strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	})
	if err != nil {
		return nil, err
	}
	if err := s.verify(d); err != nil {
		return nil, err // what was read may be of a directory that was being removed
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.Clip(names[:min(max(n, 0), len(names))]), nil
}

// each calls f with the name of each file in the directory, "." and ".." not.
func (s *Store) each(d *dir, f func(file string)) error {
	fd, err := again1(func() (int, error) {
		return s.sys.openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	})
	if err != nil {
		return classify("open directory", err)
	}
	defer s.sys.close(fd)
	buf := make([]byte, 32<<10)
	var names []string
	for {
		n, err := again1(func() (int, error) { return s.sys.readDirent(fd, buf) })
		if err != nil {
			return classify("read directory", err)
		}
		if n == 0 {
			return nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		for _, name := range names {
			f(name)
		}
	}
}
