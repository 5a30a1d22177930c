package etcd_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/keystore/storetest/servers"
)

// recovery is how long a store may take until it serves again, once etcd can.
const recovery = 5 * time.Second

// TestKS25_MembersAreLost kills members of a cluster, one, two and all, and has one
// stand still.
func TestKS25_MembersAreLost(t *testing.T) {
	t.Parallel()
	e := servers.OwnEtcd(t)
	cfg := newStore(t, e)
	s := open(t, cfg)
	cfg.Timeout = time.Second
	hasty := open(t, cfg)
	write := writer(t, s)
	write("at the beginning")

	for member := range e.Endpoints { // one of them is the leader
		e.Kill(t, member)
		write(fmt.Sprintf("without member %d", member))
		e.Start(t, member)
		write(fmt.Sprintf("with member %d again", member))
	}
	for member := range e.Endpoints {
		e.Stop(t, member)
		write(fmt.Sprintf("while member %d stands still", member))
		e.Continue(t, member)
		write(fmt.Sprintf("when member %d goes on", member))
	}

	e.Kill(t, 0)
	e.Kill(t, 1)
	for call, err := range map[string]error{
		"create": hasty.Create(t.Context(), "new", []byte("x")),
		"get":    get(t, hasty, "app-0"),
		"absent": get(t, hasty, "none"),
		"status": hasty.Status(t.Context()),
	} {
		want(t, call+" without a quorum", err, keystore.ErrUnavailable)
	}
	e.Start(t, 0)
	e.Start(t, 1)
	write("with a quorum again")
	want(t, "a create of which it was not known", ignore(s.Create(t.Context(), "new", []byte("x")), keystore.ErrExists), nil)

	for member := range e.Endpoints {
		e.Kill(t, member)
	}
	want(t, "create without any member", hasty.Create(t.Context(), "newer", []byte("x")), keystore.ErrUnavailable)
	for member := range e.Endpoints {
		e.Start(t, member)
	}
	write("with all members again")
	want(t, "get", get(t, s, "app-0"), nil)
	want(t, "absent", get(t, s, "none"), keystore.ErrNotFound)
}

// writer returns a function that writes until it succeeds, within recovery, and
// reads what it wrote.
func writer(t *testing.T, s keystore.Store) func(when string) {
	n := 0
	return func(when string) {
		t.Helper()
		name, start := fmt.Sprintf("app-%d", n), time.Now()
		n++
		for {
			err := s.Create(t.Context(), name, []byte(when))
			if err == nil {
				break
			}
			if !errors.Is(err, keystore.ErrUnavailable) && !errors.Is(err, keystore.ErrExists) {
				t.Fatalf("%s: %v", when, err)
			}
			if p, _, err := s.Get(t.Context(), name); err == nil && string(p) == when {
				break // an earlier call that said that it did not know
			}
			if time.Since(start) > recovery {
				t.Fatalf("%s: not written after %v: %v", when, time.Since(start), err)
			}
		}
		took := time.Since(start)
		if took > recovery {
			t.Fatalf("%s: written after %v", when, took)
		}
		t.Logf("%s: written after %v", when, took.Round(time.Millisecond))
		p, _, err := s.Get(t.Context(), name)
		if err != nil || string(p) != when {
			t.Fatalf("%s: got %q, %v", when, p, err)
		}
	}
}

// TestKS27_ACompactedWatch: what comes next for a watch is compacted while its
// connection is cut. It begins anew, or ends; it does not go on with a gap.
func TestKS27_ACompactedWatch(t *testing.T) {
	e := servers.SharedEtcd(t)
	cfg := newStore(t, e)
	direct := open(t, cfg)
	through, proxies := proxied(t, cfg)
	s := open(t, through)
	told, ended := make(chan string, 10_000), make(chan error, 1)
	go func() { ended <- s.Watch(t.Context(), func(name string) { told <- name }) }()
	if name := <-told; name != "" {
		t.Fatalf("told of %q first", name)
	}
	set(proxies, netfault.Refuse)
	cut(proxies)
	for i := range 20 {
		want(t, "create", direct.Create(t.Context(), fmt.Sprintf("app-%d", i), nil), nil)
	}
	compact(t, e)
	set(proxies, netfault.Pass)
	late := time.After(keystore.WatchBound)
	for {
		select {
		case name := <-told:
			if name == "" {
				t.Log("began anew")
				return
			}
		case err := <-ended:
			want(t, "watch", err, keystore.ErrUnavailable)
			t.Log("ended: ", err)
			return
		case <-late:
			t.Fatal("neither began anew nor ended")
		}
	}
}

// TestKS26_RestoredFromASnapshot goes back to a snapshot under a store that is open,
// which the documentation asks not to be done: it then says what the snapshot says,
// takes nothing that it knew for what is there now, and its watch does not go on.
func TestKS26_RestoredFromASnapshot(t *testing.T) {
	t.Parallel()
	e := servers.OwnEtcd(t)
	s := open(t, newStore(t, e))
	want(t, "create", s.Create(t.Context(), "app", []byte("before")), nil)
	_, before, err := s.Get(t.Context(), "app")
	want(t, "get", err, nil)
	file := filepath.Join(t.TempDir(), "snapshot")
	one := e
	one.Endpoints = e.Endpoints[:1]
	etcdctl(t, one, "", "snapshot", "save", file)
	want(t, "update", s.Update(t.Context(), "app", []byte("after"), before), nil)
	_, after, err := s.Get(t.Context(), "app")
	want(t, "get", err, nil)
	want(t, "create", s.Create(t.Context(), "new", []byte("after")), nil)
	told, ended := make(chan string, 100), make(chan error, 1)
	go func() { ended <- s.Watch(t.Context(), func(name string) { told <- name }) }()
	<-told

	for member := range e.Endpoints {
		e.Kill(t, member)
	}
	e.Restore(t, file)
	for member := range e.Endpoints {
		e.Start(t, member)
	}
	select {
	case err := <-ended:
		want(t, "watch", err, keystore.ErrUnavailable)
		t.Log(err)
	case <-time.After(keystore.WatchBound):
		t.Error("the watch goes on after the restore")
	}
	for start := time.Now(); get(t, s, "app") != nil; {
		if time.Since(start) > recovery {
			t.Fatal("not well after the restore")
		}
	}
	record, now, err := s.Get(t.Context(), "app")
	if err != nil || string(record) != "before" || now == after {
		t.Errorf("got %q of revision %s, %v", record, now, err)
	}
	want(t, "get", get(t, s, "new"), keystore.ErrNotFound)
	want(t, "update", s.Update(t.Context(), "app", nil, after), keystore.ErrConflict)
	want(t, "update", s.Update(t.Context(), "app", []byte("again"), before), nil)
}

func cut(ps []*netfault.Proxy) {
	for _, p := range ps {
		p.Cut()
	}
}

func get(t *testing.T, s keystore.Store, name string) error {
	_, _, err := s.Get(t.Context(), name)
	return err
}

// ignore returns err, or nil if it is the sentinel.
func ignore(err, sentinel error) error {
	if errors.Is(err, sentinel) {
		return nil
	}
	return err
}

func want(t *testing.T, call string, err, sentinel error) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("%s: got error %v, want %v", call, err, sentinel)
	}
}
