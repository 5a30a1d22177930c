package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/remote"
)

// Watch tells of changes, by LISTEN on a connection of its own; see keystore.Store.
// A trigger notifies of each, whoever makes it. The server signals listeners before
// it acknowledges a commit, and hands on what is there before it says that it is
// ready for another statement (PostgreSQL 13 and later). So the answer to a statement
// on the same connection, each second, is the proof that all that was acknowledged
// before it has been told.
func (s *Store) Watch(ctx context.Context, changed func(name string)) error {
	err := s.check("watch", keystore.CheckAlive(ctx))
	if err != nil {
		return err
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.ended:
			cancel()
		case <-watching.Done():
		}
	}()
	err = s.watch(watching, changed)
	switch {
	case ctx.Err() != nil:
		err = remote.Cancelled(ctx)
	case watching.Err() != nil:
		err = unavailable("store is closed")
	}
	return fmt.Errorf("postgres: watch: %w", err)
}

func (s *Store) watch(ctx context.Context, changed func(name string)) error {
	begun := false
	conn, err := s.listen(ctx, func(_ *pgconn.PgConn, n *pgconn.Notification) {
		switch {
		case !begun: // it comes before the beginning
		case n.Payload == "" || keystore.ValidName(n.Payload):
			changed(n.Payload)
		}
	})
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), remote.ProbeTimeout)
		defer cancel()
		conn.Close(closing)
	}()
	for {
		if err := s.probe(ctx, conn); err != nil {
			return err
		}
		if !begun {
			begun = true
			changed("")
		}
		if err := await(ctx, conn.PgConn(), remote.ProbeEvery); err != nil {
			return err
		}
	}
}

// listen opens a connection that calls told with each notification, on the goroutine
// that uses it.
func (s *Store) listen(ctx context.Context, told pgconn.NotificationHandler) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.attempt())
	defer cancel()
	conn, err := s.dial(ctx, func(cfg *pgx.ConnConfig) {
		cfg.OnNotification = told
		cfg.RuntimeParams["application_name"] = "keygate watch"
	})
	if err != nil {
		return nil, classify("connect", err)
	}
	if _, err := conn.Exec(ctx, "LISTEN "+s.channel); err != nil {
		conn.Close(ctx)
		return nil, classify("listen", err)
	}
	return conn, nil
}

// probe asks for the identity of the store, and so for all notifications.
func (s *Store) probe(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, remote.ProbeTimeout)
	defer cancel()
	var identity string
	var format int
	if err := s.noRow(conn.QueryRow(ctx, s.sql.identity).Scan(&identity, &format)); err != nil {
		return classify("probe", err)
	}
	return s.identify(identity, format)
}

// await takes notifications for d.
func await(ctx context.Context, conn *pgconn.PgConn, d time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		if err := conn.WaitForNotification(waiting); err != nil {
			if waiting.Err() != nil && ctx.Err() == nil && !conn.IsClosed() {
				return nil
			}
			return classify("notifications", err)
		}
	}
}
