package postgres

import (
	"context"
	"crypto/tls"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keygate/keygate/keystore/remote"
)

// connConfig returns how to connect, but for the password. pgx wants it to begin
// with what it has parsed, and for that reads variables of the environment; all that
// matters is set here.
func (s *Store) connConfig() (*pgx.ConnConfig, error) {
	var hosts, ports []string
	for _, h := range s.cfg.Hosts {
		host, port, err := splitHost(h)
		if err != nil {
			return nil, err
		}
		hosts, ports = append(hosts, host), append(ports, strconv.Itoa(int(port)))
	}
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host='%s' port='%s' user=keygate dbname=keygate sslmode=disable passfile=/dev/null",
		strings.Join(hosts, ","), strings.Join(ports, ",")))
	if err != nil {
		return nil, err
	}
	cfg.User, cfg.Database, cfg.Password = s.cfg.User, s.cfg.Database, ""
	if cfg.TLSConfig, err = s.tls(cfg.Host); err != nil {
		return nil, err
	}
	for _, f := range cfg.Fallbacks {
		if f.TLSConfig, err = s.tls(f.Host); err != nil {
			return nil, err
		}
	}
	cfg.ConnectTimeout = s.attempt()
	cfg.RuntimeParams = map[string]string{
		"application_name":                    "keygate",
		"client_encoding":                     "UTF8",
		"search_path":                         "pg_catalog",
		"default_transaction_isolation":       "read committed",
		"statement_timeout":                   milliseconds(s.attempt()),
		"idle_in_transaction_session_timeout": milliseconds(s.timeout),
	}
	cfg.ValidateConnect = validate
	return cfg, nil
}

// attempt is how long one statement may take.
func (s *Store) attempt() time.Duration { return s.timeout / 4 }

func milliseconds(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }

func (s *Store) tls(host string) (cfg *tls.Config, err error) {
	if strings.HasPrefix(host, "/") {
		return nil, nil // a Unix socket
	}
	return s.cfg.TLS.Config(host)
}

// validate looks at a new connection: the server must take writes, and must have
// them on disk before it says that they are done. What a database or a role may set
// to make commits faster is set back.
func validate(ctx context.Context, c *pgconn.PgConn) error {
	results, err := c.Exec(ctx, `SELECT pg_is_in_recovery(), current_setting('transaction_read_only'),
		current_setting('fsync', true), current_setting('full_page_writes', true),
		CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN set_config('synchronous_commit', 'on', false) END`).ReadAll()
	if err != nil {
		return err
	}
	row := results[0].Rows[0]
	switch {
	case string(row[0]) == "t" || string(row[1]) == "on":
		return fmt.Errorf("the server takes no writes: it is a standby, or read-only")
	case string(row[2]) == "off" || string(row[3]) == "off":
		return fmt.Errorf("the server has fsync or full_page_writes off, and would lose keys in a crash")
	}
	return nil
}

func (s *Store) newPool() (*pgxpool.Pool, error) {
	if _, err := s.password(); err != nil {
		return nil, err
	}
	// pgxpool takes nothing but what it has parsed itself.
	cfg, err := pgxpool.ParseConfig("host=localhost sslmode=disable passfile=/dev/null")
	if err != nil {
		return nil, err
	}
	cfg.ConnConfig = s.connect.Copy()
	cfg.MaxConns = int32(s.cfg.Connections)
	cfg.MinConns, cfg.MinIdleConns = 0, 0
	cfg.MaxConnLifetime, cfg.MaxConnLifetimeJitter = 30*time.Minute, 5*time.Minute
	cfg.MaxConnIdleTime = 5 * time.Minute
	// A connection that has died is found by its use, and the call tried again. To
	// ask first would cost a round trip, and the connection, if the caller gives up
	// meanwhile.
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	cfg.BeforeConnect = func(_ context.Context, cfg *pgx.ConnConfig) (err error) {
		cfg.Password, err = s.password()
		return err
	}
	return pgxpool.NewWithConfig(context.Background(), cfg)
}

func (s *Store) password() (string, error) {
	if s.cfg.PasswordFile == "" {
		return "", nil
	}
	return remote.Secret(s.cfg.PasswordFile)
}

// dial opens a connection outside the pool.
func (s *Store) dial(ctx context.Context, prepare func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	cfg := s.connect.Copy()
	var err error
	if cfg.Password, err = s.password(); err != nil {
		return nil, err
	}
	prepare(cfg)
	return pgx.ConnectConfig(ctx, cfg)
}
