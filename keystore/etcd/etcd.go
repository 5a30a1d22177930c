// Package etcd keeps key records in an etcd cluster, version 3.4 or later, shared
// by all gateways. Below a prefix there are
//
//	identity        whose store this is, as text
//	changed         the id of the last write; each write puts it in its transaction
//	deleted         each delete puts it, so that no create of before can be done after
//	record/<name>   a record: see value
//
// Each call is one transaction that compares the identity too: with another
// cluster's store, or an empty prefix, it is keystore.ErrUnavailable, never
// keystore.ErrNotFound, at the cost of no further round trip. Reads are
// linearizable. A write whose answer was lost is tried again with the same id, by
// which it finds itself if it was done. Of a create, what is there then may not say
// that: it is keystore.ErrUnavailable.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/remote"
)

// Config says where the store is.
type Config struct {
	// Endpoints are the members' URLs, https://host:port. Required.
	Endpoints []string `yaml:"endpoints"`
	// Prefix is what all keys of the store begin with; a / is put at its end if
	// it has none. Empty means /keygate/.
	Prefix string `yaml:"prefix"`
	// Username and PasswordFile log in where etcd has authentication on. Empty
	// means that the client certificate is the login, or that there is none.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"`
	// TLS names the files of the connection.
	TLS remote.TLS `yaml:"tls"`
	// Timeout bounds each call, with all its tries. Zero means DefaultTimeout.
	Timeout time.Duration `yaml:"timeout"`
}

// The defaults of Config.
const (
	DefaultPrefix  = "/keygate/"
	DefaultTimeout = 4 * time.Second
)

const (
	maxPrefix   = 128 // bytes
	maxIdentity = 128 // bytes
	// silence is after how long a connection on which nothing comes is asked for a
	// sign of life, and reply how long that may take. etcd does not allow less
	// than 5 s, gRPC not less than 10 s.
	silence = 10 * time.Second
	reply   = 2 * time.Second
)

// Check returns what is wrong with cfg: errors, joined, of the form
// "etcd: field: text".
func (cfg *Config) Check() error {
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("etcd: %s: %s", field, fmt.Sprintf(format, args...)))
	}
	if len(cfg.Endpoints) == 0 {
		fail("endpoints", "it is missing")
	}
	for _, endpoint := range cfg.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil || u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
			fail("endpoints", "%q is not of the form https://host:port", endpoint)
		}
	}
	if !printable(cfg.prefix(), maxPrefix) {
		fail("prefix", "it is not of up to %d printable characters", maxPrefix)
	}
	if (cfg.Username == "") != (cfg.PasswordFile == "") {
		fail("password_file", "username and password_file need each other")
	}
	if cfg.Timeout < 0 {
		fail("timeout", "it is negative")
	}
	if err := cfg.TLS.Check(); err != nil {
		errs = append(errs, fmt.Errorf("etcd: %w", err))
	}
	return errors.Join(errs...)
}

// printable: 1 to n printable ASCII characters, without space.
func printable(s string, n int) bool {
	return s != "" && len(s) <= n && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func (cfg *Config) prefix() string {
	if cfg.Prefix == "" {
		return DefaultPrefix
	}
	return strings.TrimSuffix(cfg.Prefix, "/") + "/"
}

// A Store is a keystore.Store in etcd. Make one with Open.
type Store struct {
	cfg      Config
	identity string // the text of the identity key
	prefix   string
	timeout  time.Duration
	head     atomic.Pointer[position] // as of an answer of late; nil: there was none yet

	mu     sync.Mutex // held while a client is made
	client *clientv3.Client
	silent time.Time // since when the client has heard nothing; zero: it has
	closed bool
}

var _ keystore.Store = (*Store)(nil)

// Open returns the store that Init has made with the same identity. It fails only
// for a wrong cfg or identity, or for files that cannot be read; of etcd each call
// tells whether it can be reached, and is the right one.
func Open(cfg Config, identity string) (*Store, error) {
	s, err := newStore(cfg, identity)
	if err == nil {
		err = s.checkFiles()
	}
	if err != nil {
		return nil, fmt.Errorf("etcd: open: %w", err)
	}
	return s, nil
}

func newStore(cfg Config, identity string) (*Store, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	if !printable(identity, maxIdentity) {
		return nil, fmt.Errorf("identity %q is not 1 to %d printable characters", identity, maxIdentity)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	return &Store{cfg: cfg, identity: identityText(identity), prefix: cfg.prefix(), timeout: cfg.Timeout}, nil
}

// identityHead is the first line of the identity key; the second is the identity.
const identityHead = "keygate key store 1\n"

func identityText(identity string) string { return identityHead + identity + "\n" }

func (s *Store) identityKey() string { return s.prefix + "identity" }
func (s *Store) changedKey() string  { return s.prefix + "changed" }

// deletedKey is written by each delete of a record.
func (s *Store) deletedKey() string { return s.prefix + "deleted" }
func (s *Store) recordKey(name string) string {
	return s.prefix + "record/" + name
}

// Close closes the connections. Calls after it, and those that run, return
// keystore.ErrUnavailable.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	client := s.client
	s.client = nil
	if client == nil {
		return nil
	}
	if err := client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("etcd: close: %w", err)
	}
	return nil
}
