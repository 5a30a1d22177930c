package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrations are the texts of migrations/, in their order. The format of a store is
// how many were done. They are never changed, only followed by others.
var migrations = readMigrations()

func readMigrations() (all []string) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		panic(err) // the pattern is wrong
	}
	for _, name := range names { // sorted
		text, err := migrationFiles.ReadFile(name)
		if err != nil {
			panic(err) // it is in the program
		}
		all = append(all, string(text))
	}
	return all
}

// initLock is the advisory lock that one Init at a time holds: "keygate".
const initLock = 0x6b657967617465

// Init makes the store of a cluster, as Config.Owner: the schema, if there is none,
// the tables, and the identity; and grants Config.User what the gateway needs. The
// identity is the cluster's id in hex. All of it is done, or nothing. To Init the
// store of the same identity again does the migrations that are new. Anything else
// is an error.
func Init(ctx context.Context, cfg Config, identity string) error {
	gateway := or(cfg.User, DefaultName)
	if cfg.Owner.User != "" {
		cfg.User, cfg.PasswordFile = cfg.Owner.User, cfg.Owner.PasswordFile
	}
	s, err := newStore(cfg, identity)
	if err == nil {
		err = s.init(ctx, gateway)
	}
	if err != nil {
		return fmt.Errorf("postgres: init: %w", err)
	}
	return nil
}

func (s *Store) init(ctx context.Context, gateway string) error {
	ctx, cancel := context.WithTimeout(ctx, 4*s.timeout)
	defer cancel()
	conn, err := s.dial(ctx, func(cfg *pgx.ConnConfig) {
		cfg.RuntimeParams["statement_timeout"] = milliseconds(4 * s.timeout)
	})
	if err != nil {
		return classify("connect", err)
	}
	defer conn.Close(ctx)
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return s.make(ctx, tx, gateway) })
	if _, ok := errors.AsType[*refusal](err); ok {
		return err
	}
	return classify("make the store", err)
}

// A refusal is a store that is not to be touched.
type refusal struct{ error }

func refuse(format string, args ...any) error { return &refusal{fmt.Errorf(format, args...)} }

func (s *Store) make(ctx context.Context, tx pgx.Tx, gateway string) error {
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", int64(initLock)); err != nil {
		return err
	}
	format, err := s.format(ctx, tx)
	if err != nil {
		return err
	}
	for _, text := range migrations[format:] {
		if _, err := tx.Conn().PgConn().Exec(ctx, strings.ReplaceAll(text, "{schema}", s.schema())).ReadAll(); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, "INSERT INTO "+s.schema()+".store (identity, format) VALUES ($1, $2) ON CONFLICT (one) DO UPDATE SET format = $2", s.identity, len(migrations)); err != nil {
		return err
	}
	if gateway == s.cfg.User {
		return nil
	}
	return s.grant(ctx, tx, pgx.Identifier{gateway}.Sanitize())
}

// format makes the schema, if there is none, and returns how many migrations it has.
func (s *Store) format(ctx context.Context, tx pgx.Tx) (int, error) {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", s.cfg.Schema).Scan(&there); err != nil {
		return 0, err
	}
	if !there {
		_, err := tx.Exec(ctx, "CREATE SCHEMA "+s.schema())
		return 0, err
	}
	var tables []string
	err := tx.QueryRow(ctx, "SELECT ARRAY(SELECT relname::text FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1)", s.schema()).Scan(&tables)
	switch {
	case err != nil:
		return 0, err
	case len(tables) == 0:
		return 0, nil
	case !strings.Contains(" "+strings.Join(tables, " ")+" ", " store "):
		return 0, refuse("schema %s is no key store and not empty: it holds %q", s.cfg.Schema, tables)
	}
	var identity string
	var format int
	err = tx.QueryRow(ctx, s.sql.identity).Scan(&identity, &format)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return 0, refuse("schema %s has lost its identity: restore it", s.cfg.Schema)
	case err != nil:
		return 0, err
	case identity != s.identity:
		return 0, refuse("schema %s is the store of another cluster: %q", s.cfg.Schema, identity)
	case format > len(migrations):
		return 0, refuse("schema %s has format %d, newer than this program's %d", s.cfg.Schema, format, len(migrations))
	}
	return format, nil
}

// grant gives a role what the gateway needs, and no more.
func (s *Store) grant(ctx context.Context, tx pgx.Tx, role string) error {
	for _, text := range []string{
		"GRANT USAGE ON SCHEMA %s TO %s",
		"GRANT SELECT ON %s.store TO %s",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON %s.records TO %s",
	} {
		if _, err := tx.Exec(ctx, fmt.Sprintf(text, s.schema(), role)); err != nil {
			return err
		}
	}
	return nil
}
