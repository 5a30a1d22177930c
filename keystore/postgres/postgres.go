// Package postgres keeps key records in a table of PostgreSQL, version 13 or later,
// shared by all gateways.
//
// Each call is one statement, a transaction of its own, that compares the identity
// of the store too: in another database, or another cluster's store, it is
// keystore.ErrUnavailable, never keystore.ErrNotFound. A write whose answer was
// lost is tried again with the same id, by which it finds itself if it was done;
// one that is still under way holds the second back until it has ended. A create is
// only looked for, and if it is not there, that is keystore.ErrUnavailable: what it
// made may have been deleted since, and must not come back.
package postgres

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/remote"
)

// Config says where the store is.
type Config struct {
	// Hosts are the servers, host:port, of which one takes writes: that one is
	// used. A host is a name, an address, or the directory of a Unix socket
	// (/run/postgresql:5432), on which there is no TLS. Required.
	Hosts []string `yaml:"hosts"`
	// Database, User and Schema. Empty means keygate, for each.
	Database string `yaml:"database"`
	User     string `yaml:"user"`
	Schema   string `yaml:"schema"`
	// PasswordFile holds the user's password, and is read for each connection.
	// Empty means that the server asks for none: the client certificate is the
	// login, or the user of the system.
	PasswordFile string `yaml:"password_file"`
	// Owner is who Init logs in as. The gateway does not use it.
	Owner Owner `yaml:"owner"`
	// TLS names the files of the connection.
	TLS remote.TLS `yaml:"tls"`
	// Connections bounds the connections of this gateway; one more watches. Zero
	// means DefaultConnections.
	Connections int `yaml:"connections"`
	// Timeout bounds each call, with all its tries. Zero means DefaultTimeout.
	Timeout time.Duration `yaml:"timeout"`
}

// An Owner is the role that owns the schema, and may make it.
type Owner struct {
	// User is empty if it is Config.User.
	User string `yaml:"user"`
	// PasswordFile holds its password.
	PasswordFile string `yaml:"password_file"`
}

// The defaults of Config.
const (
	DefaultName        = "keygate"
	DefaultConnections = 8
	DefaultTimeout     = 4 * time.Second
)

const (
	maxIdentity    = 128 // bytes
	maxConnections = 1000
)

// schemaName leaves room for "keygate_" before it in the 63 bytes of a name.
var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,49}$`)

// Check returns what is wrong with cfg: errors, joined, of the form
// "postgres: field: text".
func (cfg *Config) Check() error {
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("postgres: %s: %s", field, fmt.Sprintf(format, args...)))
	}
	if len(cfg.Hosts) == 0 {
		fail("hosts", "it is missing")
	}
	for _, host := range cfg.Hosts {
		if _, _, err := splitHost(host); err != nil {
			fail("hosts", "%q is not of the form host:port", host)
		}
	}
	if !schemaName.MatchString(or(cfg.Schema, DefaultName)) {
		fail("schema", "it is not of up to 50 lower-case letters, digits and _, with no digit at the beginning")
	}
	if cfg.Connections < 0 || cfg.Connections > maxConnections {
		fail("connections", "it is not from 1 to %d", maxConnections)
	}
	if cfg.Timeout < 0 {
		fail("timeout", "it is negative")
	}
	if cfg.Owner.User == "" && cfg.Owner.PasswordFile != "" {
		fail("owner.user", "it is missing")
	}
	if err := cfg.TLS.Check(); err != nil {
		errs = append(errs, fmt.Errorf("postgres: %w", err))
	}
	return errors.Join(errs...)
}

func splitHost(s string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || host == "" || strings.ContainsAny(host, " '\\,") {
		return "", 0, errors.New("not host:port")
	}
	return host, uint16(n), nil
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// A Store is a keystore.Store in PostgreSQL. Make one with Open.
type Store struct {
	cfg      Config
	identity string
	channel  string // of notifications, quoted
	sql      statements
	timeout  time.Duration
	connect  *pgx.ConnConfig // without a password
	pool     *pgxpool.Pool
	closed   atomic.Bool
	ended    chan struct{} // closed by Close
}

var _ keystore.Store = (*Store)(nil)

// Open returns the store that Init has made with the same identity. It fails only
// for a wrong cfg or identity, or for files that cannot be read; of the server each
// call tells whether it can be reached, and has the right store.
func Open(cfg Config, identity string) (*Store, error) {
	s, err := newStore(cfg, identity)
	if err == nil {
		s.pool, err = s.newPool()
	}
	if err != nil {
		return nil, fmt.Errorf("postgres: open: %w", err)
	}
	return s, nil
}

func newStore(cfg Config, identity string) (*Store, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if identity == "" || len(identity) > maxIdentity || strings.IndexFunc(identity, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
		return nil, fmt.Errorf("identity %q is not 1 to %d printable characters", identity, maxIdentity)
	}
	cfg.Database, cfg.User, cfg.Schema = or(cfg.Database, DefaultName), or(cfg.User, DefaultName), or(cfg.Schema, DefaultName)
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Connections == 0 {
		cfg.Connections = DefaultConnections
	}
	s := &Store{cfg: cfg, identity: identity, timeout: cfg.Timeout, ended: make(chan struct{})}
	s.channel = pgx.Identifier{"keygate_" + cfg.Schema}.Sanitize()
	s.sql = newStatements(s.schema())
	var err error
	s.connect, err = s.connConfig()
	return s, err
}

// schema returns the quoted name.
func (s *Store) schema() string { return pgx.Identifier{s.cfg.Schema}.Sanitize() }

// Close closes the connections when the statements that run have ended. Calls after
// it return keystore.ErrUnavailable.
func (s *Store) Close() error {
	if !s.closed.Swap(true) {
		close(s.ended)
		s.pool.Close()
	}
	return nil
}
