package vaultkv

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/keygate/keygate/keystore"
)

// maxRaces bounds how often a Create begins anew because others create and
// delete the same name meanwhile.
const maxRaces = 5

// Create stores the record as the first version of its secret, or as the next
// one after a tombstone.
func (s *Store) Create(ctx context.Context, name string, record []byte) error {
	err := keystore.CheckWrite(ctx, name, record)
	if err == nil {
		err = s.create(ctx, name, record)
	}
	return wrap("create", err)
}

func (s *Store) create(ctx context.Context, name string, record []byte) error {
	if err := s.verify(ctx); err != nil {
		return err
	}
	after := 0
	for range maxRaces {
		err := s.write(ctx, recordPath(name), recordContent(record), after)
		if !errors.Is(err, errStale) {
			return err
		}
		e, readErr := s.readRecord(ctx, name)
		switch {
		case errors.Is(readErr, keystore.ErrCorrupt):
			return fmt.Errorf("%w: %w", keystore.ErrExists, readErr)
		case readErr != nil:
			return readErr
		case e == nil || e.Metadata.Version == after:
			return failed(err) // it was refused for another reason
		case !e.Data.Deleted:
			return keystore.ErrExists
		}
		after = e.Metadata.Version
	}
	return unavailable("others create and delete it at the same time")
}

func recordContent(record []byte) content {
	p := append([]byte{}, record...)
	return content{Record: &p}
}

// Get returns the record.
func (s *Store) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	if err := keystore.Check(ctx, name); err != nil {
		return nil, "", wrap("get", err)
	}
	e, err := s.live(ctx, name)
	if err != nil {
		return nil, "", wrap("get", err)
	}
	return *e.Data.Record, e.revision(), nil
}

// Update replaces the record by a new version.
func (s *Store) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	err := keystore.CheckWrite(ctx, name, record)
	if err == nil {
		_, err = s.replace(ctx, name, recordContent(record), rev, nil)
	}
	return wrap("update", err)
}

// replace writes the next version if the newest is rev, and returns its number.
// before is called when that has been seen, unless it is nil.
func (s *Store) replace(ctx context.Context, name string, data content, rev keystore.Revision, before func() error) (int, error) {
	e, err := s.live(ctx, name)
	if err != nil {
		return 0, err
	}
	if e.revision() != rev {
		return 0, keystore.ErrConflict
	}
	if before != nil {
		if err := before(); err != nil {
			return 0, err
		}
	}
	err = s.write(ctx, recordPath(name), data, e.Metadata.Version)
	if !errors.Is(err, errStale) {
		return e.Metadata.Version + 1, err
	}
	now, readErr := s.live(ctx, name)
	if readErr != nil {
		return 0, readErr
	}
	if now.revision() == rev {
		return 0, failed(err) // it was refused for another reason
	}
	return 0, keystore.ErrConflict
}

// Delete writes a tombstone and destroys the versions before it. An error of the
// latter is ErrUnavailable, with the record gone.
func (s *Store) Delete(ctx context.Context, name string, rev keystore.Revision) error {
	err := keystore.Check(ctx, name)
	if err == nil {
		err = s.delete(ctx, name, rev)
	}
	return wrap("delete", err)
}

func (s *Store) delete(ctx context.Context, name string, rev keystore.Revision) error {
	tombstone, err := s.replace(ctx, name, content{Deleted: true}, rev, func() error { return s.mark(ctx, name) })
	if err != nil {
		return err
	}
	return s.destroyBefore(ctx, name, tombstone)
}

// mark notes that there may be a tombstone, before there is: List reads only the
// records that have the mark. It stays.
func (s *Store) mark(ctx context.Context, name string) error {
	err := s.write(ctx, deletedPath(name), content{Deleted: true}, 0)
	if !errors.Is(err, errStale) {
		return err
	}
	if e, readErr := s.read(ctx, deletedPath(name)); readErr != nil || e == nil {
		return errors.Join(failed(err), readErr)
	}
	return nil // it is there already
}

// destroyBefore destroys the versions before one, for good. A record may be all
// that holds a master key, wrapped, and the engine keeps old versions.
func (s *Store) destroyBefore(ctx context.Context, name string, version int) error {
	var out struct {
		Versions map[string]metadata `json:"versions"`
	}
	if err := s.api.Read(ctx, s.path("metadata", recordPath(name)), &out); err != nil {
		return failed(err)
	}
	old := []int{}
	for text, m := range out.Versions {
		if n, err := strconv.Atoi(text); err == nil && n < version && !m.Removed {
			old = append(old, n)
		}
	}
	if len(old) == 0 {
		return nil
	}
	if err := s.api.Write(ctx, s.path("destroy", recordPath(name)), map[string][]int{"versions": old}, nil); err != nil {
		return failed(err)
	}
	return nil
}

// wrap says which operation failed.
func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("vaultkv: %s: %w", op, err)
}
