package fs

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/keygate/keygate/keystore"
)

// probeSize is about that of a record: a disk may have room for less.
const probeSize = 4096

// Status writes a temporary file, durably, gives it a second name, and removes
// both: nothing less tells of a full disk, a directory that cannot grow, a
// quota, or a file system that went read-only.
func (s *Store) Status(ctx context.Context) error {
	if err := s.status(ctx); err != nil {
		return fmt.Errorf("fs: status: %w", err)
	}
	return nil
}

func (s *Store) status(ctx context.Context) error {
	if err := keystore.CheckAlive(ctx); err != nil {
		return err
	}
	d, err := s.acquire()
	if err != nil {
		return err
	}
	defer s.release(d)
	if err := s.probe(d); err != nil {
		return err
	}
	return s.sweepDue(d)
}

// probe takes the steps of Create, under names that no record has.
func (s *Store) probe(d *dir) error {
	temp, err := s.writeTemp(d, make([]byte, probeSize))
	if err != nil {
		return err
	}
	defer s.removeTemp(d, temp)
	second := tempPrefix + rand.Text()
	if err := s.link(d, temp, second); err != nil {
		return err
	}
	s.removeTemp(d, second)
	return nil
}
