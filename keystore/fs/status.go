package fs

import (
	"context"
	"fmt"
)

// Status writes a small temporary file, durably, and removes it: nothing less
// tells of a full disk, a quota, or a file system that went read-only.
func (s *Store) Status(ctx context.Context) error {
	if err := s.status(ctx); err != nil {
		return fmt.Errorf("fs: status: %w", err)
	}
	return nil
}

func (s *Store) status(ctx context.Context) error {
	if err := alive(ctx); err != nil {
		return err
	}
	d, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release(d)
	temp, err := s.writeTemp(d, []byte("status\n"))
	if err != nil {
		return err
	}
	s.removeTemp(d, temp)
	return s.sweepDue(d)
}
