package vaultkv

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/vault/vaultapi"
)

// Status reads the identity and the engine's configuration, and tries a write
// that the engine refuses only after it has found that it could be made: one for
// a version that is not the newest.
func (s *Store) Status(ctx context.Context) error {
	err := keystore.CheckAlive(ctx)
	if err == nil {
		err = s.status(ctx)
	}
	return wrap("status", err)
}

func (s *Store) status(ctx context.Context) error {
	if err := s.verify(ctx); err != nil {
		return err
	}
	if err := s.checkEngine(ctx); err != nil {
		return err
	}
	// If it is not there, this makes it.
	if err := s.write(ctx, "status", content{Format: identityFormat}, 0); err != nil && !errors.Is(err, errStale) {
		return err
	}
	return nil
}

// checkEngine refuses an engine that deletes by itself.
func (s *Store) checkEngine(ctx context.Context) error {
	var config struct {
		After *string `json:"delete_version_after"`
	}
	if err := s.api.Read(ctx, s.cfg.Mount+"/config", &config); err != nil {
		return failed(err)
	}
	if config.After == nil {
		return unavailable("%s/config is malformed: is the engine KV version 2?", s.cfg.Mount)
	}
	if d, err := time.ParseDuration(*config.After); err != nil || d != 0 {
		return unavailable("the engine at %s deletes versions after %s: set delete_version_after to 0", s.cfg.Mount, printable(*config.After))
	}
	return nil
}

func isCorrupt(err error) bool { return errors.Is(err, keystore.ErrCorrupt) }

// Init makes the store of a cluster: its identity, the cluster's id in hex, at
// the path. A path that holds records but no identity is refused. To do it again
// changes nothing.
func Init(ctx context.Context, cfg Config, identity string) error {
	s, err := Open(cfg, identity, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer s.Close()
	return wrap("init", s.init(ctx))
}

func (s *Store) init(ctx context.Context) error {
	if err := s.checkEngine(ctx); err != nil {
		return err
	}
	e, err := s.read(ctx, "identity")
	if err != nil {
		return err
	}
	if e == nil {
		if err := s.claim(ctx); err != nil {
			return err
		}
	}
	return s.verify(ctx)
}

// claim writes the identity where there is nothing yet.
func (s *Store) claim(ctx context.Context) error {
	var out struct{ Keys []string }
	err := s.api.List(ctx, s.path("metadata", "records"), &out)
	if err != nil && !vaultapi.Is(err, vaultapi.Absent) {
		return failed(err)
	}
	if len(out.Keys) > 0 {
		return unavailable("%s/%s holds records but no identity", s.cfg.Mount, s.cfg.Path)
	}
	err = s.write(ctx, "identity", content{Format: identityFormat, Identity: s.identity}, 0)
	if errors.Is(err, errStale) {
		return nil // if another Init was first, verify tells whose
	}
	return err
}
