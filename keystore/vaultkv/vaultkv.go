// Package vaultkv keeps key records in the KV engine, version 2, of HashiCorp
// Vault or OpenBao.
//
// Below a path of the mount there are
//
//	identity        whose store it is
//	status          what Status tries to write
//	records/NAME    the record of a name, or that it was deleted
//	deleted/NAME    that the record of a name was deleted at some time
//
// Each change is one write with check-and-set, which the engine makes atomic
// among all nodes. The engine has no such delete, so that Delete writes a
// version that says so, a tombstone, and then destroys the versions before it.
// A tombstone stays: numbers of versions never begin anew, and so no revision
// comes again. What others have deleted in the engine's own way, and what is
// destroyed there, is ErrCorrupt and not ErrNotFound: it was not this store that
// removed it, and it can often be brought back.
//
// While the identity is missing or another cluster's, calls return
// ErrUnavailable, never ErrNotFound.
package vaultkv

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/vault/vaultapi"
)

// The defaults of Config.
const (
	DefaultMount = "secret"
	DefaultPath  = "keygate"
)

// Config says where the store is. It is a section of the configuration file.
type Config struct {
	vaultapi.Config `yaml:",inline"`
	// Mount is where the KV engine is mounted. Default secret.
	Mount string `yaml:"mount,omitempty"`
	// Path is where the store is in it. Two clusters need two. Default keygate.
	Path string `yaml:"path,omitempty"`
}

// Check reports what is wrong with c, without asking the server.
func (c Config) Check() error {
	_, err := c.withDefaults()
	return err
}

func (c Config) withDefaults() (Config, error) {
	c.Mount, c.Path = cmp.Or(c.Mount, DefaultMount), cmp.Or(c.Path, DefaultPath)
	faults := c.Config.Faults()
	if !vaultapi.ValidMount(c.Mount) {
		faults = append(faults, fmt.Errorf("vaultkv: mount: %q is no mount path", c.Mount))
	}
	if !vaultapi.ValidMount(c.Path) {
		faults = append(faults, fmt.Errorf("vaultkv: path: %q is no path", c.Path))
	}
	return c, errors.Join(faults...)
}

// A Store is a keystore.Store in a KV engine. Make one with Open.
type Store struct {
	cfg      Config
	identity string
	api      *vaultapi.Client
}

var _ keystore.Store = (*Store)(nil)

// Format writes where s is, whatever the verb, and nothing that it holds.
func (s *Store) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "vaultkv.Store(%q, %q)", s.cfg.Address, s.cfg.Mount+"/"+s.cfg.Path)
}

// Open returns the store that Init has made with the same identity. It fails
// only for a wrong configuration: of a server or a store that is not there each
// call tells, with keystore.ErrUnavailable, until it is. A nil logger means
// slog.Default.
func Open(cfg Config, identity string, log *slog.Logger) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if identity == "" {
		return nil, errors.New("vaultkv: open: there is no identity")
	}
	api, err := vaultapi.New(cfg.Config, log)
	if err != nil {
		return nil, err
	}
	return &Store{cfg: cfg, identity: identity, api: api}, nil
}

// Stats counts what was asked of the server.
func (s *Store) Stats() vaultapi.Stats { return s.api.Stats() }

// Watch returns keystore.ErrNoWatch: nodes poll.
func (s *Store) Watch(context.Context, func(name string)) error {
	return fmt.Errorf("vaultkv: %w", keystore.ErrNoWatch)
}

// Close gives the token of the login back. Calls after it return
// keystore.ErrUnavailable.
func (s *Store) Close() error { return s.api.Close() }

// failed says which error of package keystore a call of the server is that
// failed. What the server refused or does not have is for the caller to look
// into first; here it is unknown.
func failed(err error) error {
	if vaultapi.Is(err, vaultapi.Denied) {
		return fmt.Errorf("%w: %w", keystore.ErrDenied, err)
	}
	return fmt.Errorf("%w: %w", keystore.ErrUnavailable, err)
}

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrUnavailable}, args...)...)
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrCorrupt}, args...)...)
}
