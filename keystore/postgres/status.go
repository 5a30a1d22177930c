package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keygate/keygate/keystore"
)

// Status has the server commit something that changes no row. Nothing less tells of
// a server that takes no writes, a full disk, a synchronous standby that is missing,
// or a right that was taken away.
func (s *Store) Status(ctx context.Context) error {
	if err := s.check("status", keystore.CheckAlive(ctx)); err != nil {
		return err
	}
	type row struct {
		identity string
		format   int
		allowed  bool
		position string // in the log
	}
	return s.try(ctx, "status", func(ctx context.Context, _ bool) error {
		r, err := run(ctx, s, "status", func(ctx context.Context, c *pgxpool.Conn) (r row, err error) {
			err = c.QueryRow(ctx, s.sql.status).Scan(&r.identity, &r.format, &r.allowed, &r.position)
			return r, s.noRow(err)
		})
		if err != nil {
			return err
		}
		if err := s.identify(r.identity, r.format); err != nil {
			return err
		}
		if !r.allowed {
			return fmt.Errorf("%w: %s may not insert and delete", keystore.ErrDenied, s.cfg.User)
		}
		return nil
	})
}
