package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keygate/keygate/keystore"
)

// statements are those of a store, with its schema. $1 is the identity in all, and $2
// the format in those that write.
type statements struct{ get, create, update, remove, list, status, identity string }

func newStatements(schema string) statements {
	const same = "EXISTS (SELECT FROM {schema}.store WHERE identity = $1 AND format = $2)"
	in := func(text string) string {
		return strings.ReplaceAll(strings.ReplaceAll(text, "{same}", same), "{schema}", schema)
	}
	return statements{
		get: in(`SELECT s.identity, s.format, r.write, r.record
			FROM {schema}.store s LEFT JOIN {schema}.records r ON r.name = $1`),
		create: in(`INSERT INTO {schema}.records (name, write, record)
			SELECT $3::text, $4::bytea, $5::bytea WHERE {same} ON CONFLICT (name) DO NOTHING`),
		update: in(`UPDATE {schema}.records SET write = $5, record = $6
			WHERE name = $3 AND write = $4 AND {same}`),
		remove: in(`DELETE FROM {schema}.records WHERE name = $3 AND write = $4 AND {same}`),
		// All bytes of names come before ~.
		list: in(`SELECT s.identity, s.format, ARRAY(SELECT name FROM {schema}.records
			WHERE name > $2 AND name >= $1 AND name < $1 || '~' ORDER BY name LIMIT $3) FROM {schema}.store s`),
		// A message in the log (WAL) is a commit that waits for the disk, and for
		// standbys where others would, and changes nothing.
		status: in(`WITH write AS (UPDATE {schema}.records SET record = record WHERE false)
			SELECT s.identity, s.format, has_table_privilege('{schema}.records', 'INSERT') AND has_table_privilege('{schema}.records', 'DELETE'),
			pg_logical_emit_message(true, 'keygate', 'status')::text FROM {schema}.store s`),
		// Joined, so that it fails without the records, too.
		identity: in(`SELECT s.identity, s.format FROM {schema}.store s LEFT JOIN {schema}.records r ON r.name = ''`),
	}
}

const idSize = 16

// newID returns the id of a write, of which the revision is the hex form.
func newID() []byte {
	id := make([]byte, idSize)
	rand.Read(id)
	return id
}

// idOf returns the id, or one that nothing has if rev is not one of this package's.
func idOf(rev keystore.Revision) []byte {
	id, err := hex.DecodeString(string(rev))
	if err != nil || len(id) != idSize || hex.EncodeToString(id) != string(rev) {
		return []byte{}
	}
	return id
}

// A stored is a record as the table has it.
type stored struct {
	record, id []byte
}

// is reports whether r is what the write of this id has left.
func (r *stored) is(id []byte) bool { return r != nil && string(r.id) == string(id) }

// look returns the record of a name, nil if there is none.
func (s *Store) look(ctx context.Context, name string) (*stored, error) {
	type row struct {
		identity string
		format   int
		stored
	}
	r, err := run(ctx, s, "select", func(ctx context.Context, c *pgxpool.Conn) (r row, err error) {
		err = c.QueryRow(ctx, s.sql.get, name).Scan(&r.identity, &r.format, &r.id, &r.record)
		return r, s.noRow(err)
	})
	if err != nil {
		return nil, err
	}
	if err := s.identify(r.identity, r.format); err != nil {
		return nil, err
	}
	switch {
	case r.id == nil:
		return nil, nil
	case len(r.id) != idSize || len(r.record) > keystore.MaxRecordSize || r.record == nil:
		return nil, fmt.Errorf("%w: a row that is not one of keygate", keystore.ErrCorrupt)
	}
	return &r.stored, nil
}

// noRow makes the error of a store without identity one that is final.
func (s *Store) noRow(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return errNoIdentity
	}
	return err
}

// write runs a statement that changes one row, or none. What is there otherwise is
// returned: nil, nothing.
func (s *Store) write(ctx context.Context, call, name, sql string, args ...any) (done bool, there *stored, err error) {
	n, err := run(ctx, s, call, func(ctx context.Context, c *pgxpool.Conn) (int64, error) {
		// Prepared before, which it is once for each connection, so that it is known
		// that what failed there was not run.
		if _, err := c.Conn().Prepare(ctx, sql, sql); err != nil {
			return 0, &unprepared{err}
		}
		tag, err := c.Exec(ctx, sql, append([]any{s.identity, len(migrations), name}, args...)...)
		return tag.RowsAffected(), err
	})
	if err != nil || n > 0 {
		return n > 0, nil, err
	}
	there, err = s.look(ctx, name)
	return false, there, err
}

// maxVanish bounds how often a record may be in the way and then be gone.
const maxVanish = 8

// Create stores a record under a name that has none.
func (s *Store) Create(ctx context.Context, name string, record []byte) error {
	if err := s.check("create", keystore.CheckWrite(ctx, name, record)); err != nil {
		return err
	}
	id := newID()
	return s.try(ctx, "create", func(ctx context.Context, doubt bool) error {
		if doubt {
			return s.created(ctx, name, id)
		}
		for range maxVanish {
			done, there, err := s.write(ctx, "insert", name, s.sql.create, id, whole(record))
			switch {
			case err != nil:
				return err
			case done || there.is(id):
				return nil
			case there != nil:
				return keystore.ErrExists
			}
		}
		return unavailable("others make and remove the record all the time")
	})
}

// created returns nil if a create, whose answer was lost, is known to be done. It is not
// tried again: its record may have been updated since, which is not ErrExists, or
// deleted, and must not come back.
func (s *Store) created(ctx context.Context, name string, id []byte) error {
	there, err := s.look(ctx, name)
	if err != nil || there.is(id) {
		return err
	}
	return errDoubt
}

// whole returns record, not nil: that would be NULL.
func whole(record []byte) []byte {
	if record == nil {
		return []byte{}
	}
	return record
}

// Get returns the record of a name.
func (s *Store) Get(ctx context.Context, name string) (record []byte, rev keystore.Revision, err error) {
	if err := s.check("get", keystore.Check(ctx, name)); err != nil {
		return nil, "", err
	}
	err = s.try(ctx, "get", func(ctx context.Context, _ bool) error {
		found, err := s.look(ctx, name)
		if err == nil && found == nil {
			err = keystore.ErrNotFound
		}
		if err == nil {
			record, rev = found.record, keystore.Revision(hex.EncodeToString(found.id))
		}
		return err
	})
	return record, rev, err
}

// Update puts a record in the place of revision rev.
func (s *Store) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	if err := s.check("update", keystore.CheckWrite(ctx, name, record)); err != nil {
		return err
	}
	id := newID()
	return s.try(ctx, "update", func(ctx context.Context, doubt bool) error {
		done, there, err := s.write(ctx, "update", name, s.sql.update, idOf(rev), id, whole(record))
		if err != nil || done || there.is(id) {
			return err
		}
		return missed(there, doubt)
	})
}

// Delete removes a record that has revision rev.
func (s *Store) Delete(ctx context.Context, name string, rev keystore.Revision) error {
	if err := s.check("delete", keystore.Check(ctx, name)); err != nil {
		return err
	}
	return s.try(ctx, "delete", func(ctx context.Context, doubt bool) error {
		done, there, err := s.write(ctx, "delete", name, s.sql.remove, idOf(rev))
		if err != nil || done {
			return err
		}
		return missed(there, doubt)
	})
}

// missed returns why a write at a revision was not done. If an earlier try may have
// been, that is not known.
func missed(there *stored, doubt bool) error {
	switch {
	case doubt:
		return errDoubt
	case there == nil:
		return keystore.ErrNotFound
	}
	return keystore.ErrConflict
}

// List returns up to n names after the name after.
func (s *Store) List(ctx context.Context, prefix, after string, n int) ([]string, error) {
	if err := s.check("list", keystore.CheckList(ctx, prefix, after)); err != nil {
		return nil, err
	}
	type row struct {
		identity string
		format   int
		names    []string
	}
	names := []string{}
	err := s.try(ctx, "list", func(ctx context.Context, _ bool) error {
		r, err := run(ctx, s, "select", func(ctx context.Context, c *pgxpool.Conn) (r row, err error) {
			err = c.QueryRow(ctx, s.sql.list, prefix, after, max(n, 0)).Scan(&r.identity, &r.format, &r.names)
			return r, s.noRow(err)
		})
		if err == nil {
			err = s.identify(r.identity, r.format)
		}
		if err == nil {
			names = append(names, r.names...)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return names, nil
}
