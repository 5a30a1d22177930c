package vaultkv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/vault/vaultapi"
)

// content is what a version of a secret holds: a record, a tombstone, or, for
// the identity, whose store it is.
type content struct {
	Record   *[]byte `json:"record,omitempty"` // nil: none; empty: a record of no bytes
	Deleted  bool    `json:"deleted,omitempty"`
	Format   string  `json:"format,omitempty"`
	Identity string  `json:"identity,omitempty"`
}

// metadata is what the engine says of a version.
type metadata struct {
	Version  int    `json:"version"`
	Created  string `json:"created_time"`
	Deletion string `json:"deletion_time"` // "" unless it was deleted, or will be
	Removed  bool   `json:"destroyed"`
}

// An entry is the newest version of a secret.
type entry struct {
	Data     *content `json:"data"`
	Metadata metadata `json:"metadata"`
}

// revision is the number of the version, and when it was made: the numbers begin
// anew if an operator removes all of a secret.
func (e *entry) revision() keystore.Revision {
	return keystore.Revision(fmt.Sprintf("%d-%s", e.Metadata.Version, e.Metadata.Created))
}

func (s *Store) path(operation, name string) string {
	return s.cfg.Mount + "/" + operation + "/" + s.cfg.Path + "/" + name
}

func recordPath(name string) string { return "records/" + name }

func deletedPath(name string) string { return "deleted/" + name }

// read returns the newest version of a secret, or nil if there is none: then it
// is not known yet whether this is the store.
func (s *Store) read(ctx context.Context, path string) (*entry, error) {
	e := new(entry)
	err := s.api.Read(ctx, s.path("data", path), e)
	if vaultapi.Is(err, vaultapi.Absent) {
		return nil, removed(err, path)
	}
	if err != nil {
		return nil, failed(err)
	}
	if e.Metadata.Version < 1 || e.Metadata.Created == "" {
		return nil, unavailable("%s: the answer is malformed: is the engine KV version 2?", path)
	}
	return e, nil
}

// removed tells a secret that is not there, nil, from one whose newest version
// was deleted or destroyed by others, which is answered with its metadata.
func removed(err error, path string) error {
	e, _ := errors.AsType[*vaultapi.Error](err)
	if len(e.Data) == 0 {
		return nil
	}
	var left entry
	if json.Unmarshal(e.Data, &left) != nil || left.Metadata.Version < 1 {
		return unavailable("%s: the answer is malformed", path)
	}
	return corrupt("version %d of %s was deleted or destroyed, and not by keygate", left.Metadata.Version, path)
}

// readRecord returns the newest version of a record, or nil if the store has
// none; a tombstone is not nil.
func (s *Store) readRecord(ctx context.Context, name string) (*entry, error) {
	e, err := s.read(ctx, recordPath(name))
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, s.verify(ctx)
	}
	if e.Data == nil || e.Data.Deleted == (e.Data.Record != nil) {
		return nil, corrupt("%s is neither a record nor a tombstone", name)
	}
	if e.Data.Record != nil && len(*e.Data.Record) > keystore.MaxRecordSize {
		return nil, corrupt("%s has %d bytes, more than %d", name, len(*e.Data.Record), keystore.MaxRecordSize)
	}
	return e, nil
}

// live returns the newest version of a record that is there, or ErrNotFound: a
// tombstone names no store, and is believed where it is this one's.
func (s *Store) live(ctx context.Context, name string) (*entry, error) {
	e, err := s.readRecord(ctx, name)
	if err == nil && e != nil && e.Data.Deleted {
		e, err = nil, s.verify(ctx)
	}
	if err == nil && e == nil {
		err = keystore.ErrNotFound
	}
	return e, err
}

// errStale is returned by write if the secret has another version than after.
var errStale = errors.New("another version")

// write makes the next version of a secret, if its newest is after; 0: if there
// is none. The engine answers 400 to any other, and to much else.
func (s *Store) write(ctx context.Context, path string, data content, after int) error {
	in := struct {
		Options map[string]int `json:"options"`
		Data    content        `json:"data"`
	}{map[string]int{"cas": after}, data}
	var made metadata
	err := s.api.WriteOnce(ctx, s.path("data", path), in, &made)
	if vaultapi.Is(err, vaultapi.Refused) {
		return fmt.Errorf("%w: %w", errStale, err)
	}
	if err != nil {
		return failed(err)
	}
	if made.Version != after+1 {
		return unavailable("%s: version %d was made, not %d: the engine does not check and set", path, made.Version, after+1)
	}
	if made.Deletion != "" {
		return unavailable("%s: the engine is going to delete it at %s: set delete_version_after to 0", path, printable(made.Deletion))
	}
	return nil
}

// printable is a time of the server's as far as it looks like one.
func printable(s string) string { return fmt.Sprintf("%.40q", s) }

// identityFormat is the format of the store.
const identityFormat = "keygate key store 1"

// verify returns nil if the store is that of the identity.
func (s *Store) verify(ctx context.Context) error {
	e, err := s.read(ctx, "identity")
	switch {
	case errors.Is(err, keystore.ErrCorrupt):
		return unavailable("the identity: %v", err)
	case err != nil:
		return err
	case e == nil:
		return unavailable("%s/%s has no identity: it is not a key store, or another server, namespace or mount than the store's", s.cfg.Mount, s.cfg.Path)
	case e.Data == nil || e.Data.Format != identityFormat:
		return unavailable("%s/%s has an identity that is not one of keygate", s.cfg.Mount, s.cfg.Path)
	case e.Data.Identity != s.identity:
		return unavailable("%s/%s is the key store of another cluster", s.cfg.Mount, s.cfg.Path)
	}
	return nil
}
