package vaultkv_test

import (
	"errors"
	"testing"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/vault/vaulttest"
)

// What docs/keystore-vault.md says that each operation costs.
func TestCallsForEachOperation(t *testing.T) {
	f := vaulttest.NewFake(t)
	cfg := tokenConfig(t, f.Server, f.Root, "keygate")
	initialise(t, cfg)
	s, ctx := open(t, cfg), t.Context()
	check(t, s.Status(ctx)) // logs in
	var rev keystore.Revision
	count := func(what string, want uint64, f func() error) {
		t.Helper()
		before := s.Stats().Requests
		check(t, f())
		if got := s.Stats().Requests - before; got != want {
			t.Errorf("%s: %d calls, not %d", what, got, want)
		}
	}
	get := func() (err error) {
		_, rev, err = s.Get(ctx, "app")
		return err
	}
	list := func() error { _, err := s.List(ctx, "", "", 9); return err }
	count("create", 2, func() error { return s.Create(ctx, "app", nil) })
	count("read", 1, get)
	count("read none", 2, func() error {
		if _, _, err := s.Get(ctx, "none"); !errors.Is(err, keystore.ErrNotFound) {
			return err
		}
		return nil
	})
	count("list", 3, list)
	count("update", 2, func() error { return s.Update(ctx, "app", []byte("x"), rev) })
	check(t, get())
	count("delete", 5, func() error { return s.Delete(ctx, "app", rev) })
	count("list, with a name that was deleted", 4, list)
	count("create, over a tombstone", 4, func() error { return s.Create(ctx, "app", nil) })
	count("status", 3, func() error { return s.Status(ctx) })
}
