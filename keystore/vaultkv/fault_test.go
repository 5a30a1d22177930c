package vaultkv_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/vaultkv"
	"github.com/keygate/keygate/vault/vaulttest"
)

// sentinels are the errors of which a call of the store returns exactly one.
var sentinels = []error{keystore.ErrNotFound, keystore.ErrExists, keystore.ErrConflict, keystore.ErrDenied, keystore.ErrCorrupt, keystore.ErrUnavailable}

func is(t *testing.T, what string, err, want error) {
	t.Helper()
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) != (sentinel == want) {
			t.Fatalf("%s: error is %v, not %v alone", what, err, want)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// everyCall makes each call for a name that has a record, and for one that has
// none.
func everyCall(t *testing.T, s *vaultkv.Store, rev keystore.Revision, want error) {
	t.Helper()
	ctx := t.Context()
	for _, name := range []string{"app", "none"} {
		_, _, err := s.Get(ctx, name)
		is(t, "get "+name, err, want)
		is(t, "update "+name, s.Update(ctx, name, []byte("x"), rev), want)
		is(t, "delete "+name, s.Delete(ctx, name, rev), want)
	}
	is(t, "create", s.Create(ctx, "new", []byte("x")), want)
	_, err := s.List(ctx, "", "", 9)
	is(t, "list", err, want)
	is(t, "status", s.Status(ctx), want)
}

func newStore(t *testing.T, cfg vaultkv.Config) (*vaultkv.Store, keystore.Revision) {
	t.Helper()
	initialise(t, cfg)
	s := open(t, cfg)
	check(t, s.Create(t.Context(), "app", []byte("record")))
	_, rev, err := s.Get(t.Context(), "app")
	check(t, err)
	return s, rev
}

func TestFaultsOfTheServer(t *testing.T) {
	version1 := vaulttest.Broken{Name: "KV version 1", Answer: func(w http.ResponseWriter) { vaulttest.Answer(w, 200, `{"data":{"record":"AAAA"}}`) }}
	for _, broken := range append(vaulttest.AllBroken(), version1) {
		t.Run(broken.Name, func(t *testing.T) {
			t.Parallel()
			f := vaulttest.NewFake(t)
			s, rev := newStore(t, tokenConfig(t, f.Server, f.Root, "keygate"))
			f.Break("secret", broken)
			want := keystore.ErrUnavailable
			if broken.Denied {
				want = keystore.ErrDenied
			}
			everyCall(t, s, rev, want)
			f.SetFault(nil)
			got, again, err := s.Get(t.Context(), "app")
			if err != nil || string(got) != "record" || again != rev {
				t.Errorf("when it has passed: %q, %s, %v", got, again, err)
			}
			check(t, s.Status(t.Context()))
		})
	}
}

// A store without its identity, or with another's, has no answer to anything.
func TestAnotherStoreIsUnavailable(t *testing.T) {
	core := vaulttest.Real(t)
	cfg := tokenConfig(t, core.Server, core.Root, "keygate")
	newStore(t, cfg)
	core.Do(t, "POST", "sys/mounts/empty", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	core.Do(t, "POST", "sys/mounts/one", map[string]any{"type": "kv", "options": map[string]string{"version": "1"}})
	for time.Sleep(500 * time.Millisecond); ; time.Sleep(20 * time.Millisecond) {
		if status, _ := core.Try(t, "GET", "empty/config", nil); status == 200 {
			break
		}
	}
	for name, change := range map[string]func(*vaultkv.Config){
		"an empty mount":        func(c *vaultkv.Config) { c.Mount = "empty" },
		"no mount":              func(c *vaultkv.Config) { c.Mount = "none" },
		"version 1":             func(c *vaultkv.Config) { c.Mount = "one" },
		"another path":          func(c *vaultkv.Config) { c.Path = "another" },
		"an engine of its own":  func(c *vaultkv.Config) { c.Mount = "transit" },
		"a place for the login": func(c *vaultkv.Config) { c.Mount = "auth/token" },
	} {
		t.Run(name, func(t *testing.T) {
			other := cfg
			change(&other)
			s := open(t, other)
			_, _, err := s.Get(t.Context(), "app")
			is(t, "get", err, keystore.ErrUnavailable)
			is(t, "create", s.Create(t.Context(), "app", nil), keystore.ErrUnavailable)
			is(t, "update", s.Update(t.Context(), "app", nil, "1-x"), keystore.ErrUnavailable)
			_, err = s.List(t.Context(), "", "", 9)
			is(t, "list", err, keystore.ErrUnavailable)
			is(t, "status", s.Status(t.Context()), keystore.ErrUnavailable)
		})
	}
	other, err := vaultkv.Open(cfg, "ffffffffffffffffffffffffffffffff", nil)
	check(t, err)
	defer other.Close()
	_, _, err = other.Get(t.Context(), "none")
	is(t, "get, as another cluster", err, keystore.ErrUnavailable)
	is(t, "create, as another cluster", other.Create(t.Context(), "none", nil), keystore.ErrUnavailable)
	_, err = other.List(t.Context(), "", "", 9)
	is(t, "list, as another cluster", err, keystore.ErrUnavailable)
	if err := vaultkv.Init(t.Context(), cfg, "ffffffffffffffffffffffffffffffff"); !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("init, as another cluster: %v", err)
	}
	check(t, vaultkv.Init(t.Context(), cfg, cluster)) // again
}

func TestDeniedByVault(t *testing.T) {
	core := vaulttest.Real(t)
	_, rev := newStore(t, tokenConfig(t, core.Server, core.Root, "keygate"))
	core.Policy(t, "none", `path "none" { capabilities = ["read"] }`)
	s := open(t, tokenConfig(t, core.Server, core.Token(t, time.Hour, "none"), "keygate"))
	everyCall(t, s, rev, keystore.ErrDenied)
	core.Seal(t)
	everyCall(t, s, rev, keystore.ErrUnavailable)
	core.Unseal(t)
	everyCall(t, s, rev, keystore.ErrDenied)
}

// What others delete in the engine's own way can often be brought back: it is an
// alarm, not "no such key", and the name stays taken.
func TestWhatOthersDeletedIsCorrupt(t *testing.T) {
	core := vaulttest.Real(t)
	s, rev := newStore(t, tokenConfig(t, core.Server, core.Root, "keygate"))
	gone := func(what string) {
		t.Helper()
		_, _, err := s.Get(t.Context(), "app")
		is(t, what+": get", err, keystore.ErrCorrupt)
		is(t, what+": update", s.Update(t.Context(), "app", nil, rev), keystore.ErrCorrupt)
		is(t, what+": delete", s.Delete(t.Context(), "app", rev), keystore.ErrCorrupt)
		if err := s.Create(t.Context(), "app", nil); !errors.Is(err, keystore.ErrExists) {
			t.Fatalf("%s: create: %v", what, err)
		}
		names, err := s.List(t.Context(), "", "", 9)
		if err != nil || len(names) != 1 {
			t.Fatalf("%s: list: %q, %v", what, names, err)
		}
	}
	core.Do(t, "DELETE", "secret/data/keygate/records/app", nil)
	gone("deleted")
	core.Do(t, "POST", "secret/undelete/keygate/records/app", map[string]any{"versions": []int{1}})
	got, again, err := s.Get(t.Context(), "app")
	if err != nil || string(got) != "record" || again != rev {
		t.Fatalf("brought back: %q, %s, %v", got, again, err)
	}
	core.Do(t, "PUT", "secret/destroy/keygate/records/app", map[string]any{"versions": []int{1}})
	gone("destroyed")
}

func TestWhatOthersWroteIsCorrupt(t *testing.T) {
	core := vaulttest.Real(t)
	s, _ := newStore(t, tokenConfig(t, core.Server, core.Root, "keygate"))
	for _, data := range []map[string]any{{}, {"password": "x"}, {"record": "AA==", "deleted": true}, {"record": nil}} {
		core.Do(t, "POST", "secret/data/keygate/records/other", map[string]any{"data": data})
		_, _, err := s.Get(t.Context(), "other")
		is(t, "get", err, keystore.ErrCorrupt)
	}
}

// After a delete nothing of the record is left, in any version.
func TestDeleteDestroysOldVersions(t *testing.T) {
	core := vaulttest.Real(t)
	s, rev := newStore(t, tokenConfig(t, core.Server, core.Root, "keygate"))
	for range 3 {
		check(t, s.Update(t.Context(), "app", []byte("another"), rev))
		var err error
		_, rev, err = s.Get(t.Context(), "app")
		check(t, err)
	}
	check(t, s.Delete(t.Context(), "app", rev))
	versions := vaulttest.Data(core.Do(t, "GET", "secret/metadata/keygate/records/app", nil))["versions"].(map[string]any)
	if len(versions) != 5 {
		t.Errorf("there are %d versions, not 5", len(versions))
	}
	for number, v := range versions {
		if destroyed := v.(map[string]any)["destroyed"].(bool); destroyed != (number != "5") {
			t.Errorf("version %s: destroyed is %t", number, destroyed)
		}
	}
}

// A create whose answer was lost is not repeated: the second would find the name
// taken, by its own record, and the keys that the record names be destroyed.
func TestACreateWithoutAnAnswerIsUnavailable(t *testing.T) {
	f := vaulttest.NewFake(t)
	s, _ := newStore(t, tokenConfig(t, f.Server, f.Root, "keygate"))
	f.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet && strings.HasSuffix(r.URL.Path, "/records/lost") {
			f.Serve(r) // it happens, and is not answered
			panic(http.ErrAbortHandler)
		}
		return false
	})
	is(t, "create", s.Create(t.Context(), "lost", []byte("record")), keystore.ErrUnavailable)
	f.SetFault(nil)
	got, rev, err := s.Get(t.Context(), "lost")
	if err != nil || string(got) != "record" || !strings.HasPrefix(string(rev), "1-") {
		t.Errorf("%q, %s, %v", got, rev, err)
	}
}

// An engine that deletes by itself is refused, before it holds anything.
func TestAnEngineThatDeletesByItself(t *testing.T) {
	core := vaulttest.Real(t)
	cfg := tokenConfig(t, core.Server, core.Root, "keygate")
	s, rev := newStore(t, cfg)
	core.Do(t, "POST", "secret/config", map[string]any{"delete_version_after": "720h"})
	is(t, "status", s.Status(t.Context()), keystore.ErrUnavailable)
	is(t, "create", s.Create(t.Context(), "other", nil), keystore.ErrUnavailable)
	is(t, "update", s.Update(t.Context(), "app", nil, rev), keystore.ErrUnavailable)
	cfg.Path = "another"
	is(t, "init", vaultkv.Init(t.Context(), cfg, cluster), keystore.ErrUnavailable)
	core.Do(t, "POST", "secret/config", map[string]any{"delete_version_after": "0s", "cas_required": true})
	check(t, s.Status(t.Context()))
	check(t, s.Create(t.Context(), "third", nil))
	_, rev, err := s.Get(t.Context(), "third")
	check(t, err)
	check(t, s.Delete(t.Context(), "third", rev))
}

// Status writes nothing: each of its calls would be a version.
func TestStatusWritesNothing(t *testing.T) {
	core := vaulttest.Real(t)
	s, _ := newStore(t, tokenConfig(t, core.Server, core.Root, "keygate"))
	for range 5 {
		check(t, s.Status(t.Context()))
	}
	if n := vaulttest.Data(core.Do(t, "GET", "secret/metadata/keygate/status", nil))["current_version"]; n != 1.0 {
		t.Errorf("there are %v versions", n)
	}
}

func TestConfigSaysWhatIsWrong(t *testing.T) {
	for want, change := range map[string]func(*vaultkv.Config){
		"vaultapi: address:": func(c *vaultkv.Config) { c.Address = "vault:8200" },
		"vaultkv: mount:":    func(c *vaultkv.Config) { c.Mount = "a//b" },
		"vaultkv: path:":     func(c *vaultkv.Config) { c.Path = "../x" },
	} {
		f := vaulttest.NewFake(t)
		cfg := tokenConfig(t, f.Server, f.Root, "keygate")
		check(t, cfg.Check())
		change(&cfg)
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// That a record was deleted is for the store to say whose it was: the tombstone of
// another cluster's is no answer to "is there such a key".
func TestATombstoneOfAnotherStoreIsUnavailable(t *testing.T) {
	f := vaulttest.NewFake(t)
	cfg := tokenConfig(t, f.Server, f.Root, "keygate")
	s, rev := newStore(t, cfg)
	check(t, s.Delete(t.Context(), "app", rev))
	_, _, err := s.Get(t.Context(), "app")
	is(t, "get", err, keystore.ErrNotFound)
	other, err := vaultkv.Open(cfg, "ffffffffffffffffffffffffffffffff", nil)
	check(t, err)
	defer other.Close()
	_, _, err = other.Get(t.Context(), "app")
	is(t, "get, as another cluster", err, keystore.ErrUnavailable)
	is(t, "update, as another cluster", other.Update(t.Context(), "app", nil, rev), keystore.ErrUnavailable)
	is(t, "delete, as another cluster", other.Delete(t.Context(), "app", rev), keystore.ErrUnavailable)
}
