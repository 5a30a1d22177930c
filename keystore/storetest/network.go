package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/storetest/netfault"
)

// What a store on a network is held to.
const (
	hasty    = 2 * time.Second // the time of a call, where calls are to fail
	recovery = 5 * time.Second // until a store serves again, once its servers can
)

// network opens the store that h.Fresh has made last by way of proxies; proxies is
// nil if there is no network.
func network(t *testing.T, h Harness, timeout time.Duration) (keystore.Store, proxies) {
	t.Helper()
	if h.Network == nil {
		t.Log("the store is not on a network")
		return nil, nil
	}
	s, all := h.Network(t, timeout)
	return s, all
}

// proxies are those before all servers of a store.
type proxies []*netfault.Proxy

func (ps proxies) set(m netfault.Mode) {
	for _, p := range ps {
		p.Set(m)
	}
}

func (ps proxies) cut() {
	for _, p := range ps {
		p.Cut()
	}
}

func (ps proxies) delay(d time.Duration) {
	for _, p := range ps {
		p.Delay(d)
	}
}

func (ps proxies) connections() (n int) {
	for _, p := range ps {
		n += p.Connections()
	}
	return n
}

// testLostAnswers cuts the connection between a write and its answer.
func testLostAnswers(t *testing.T, h Harness) {
	direct := h.Fresh(t)()
	s, ps := network(t, h, 0)
	if s == nil {
		return
	}
	lose := func() {
		want(t, "status", s.Status(t.Context()), nil) // there is a connection
		ps.set(netfault.Half)
		time.AfterFunc(100*time.Millisecond, func() { ps.set(netfault.Pass); ps.cut() })
	}
	const rounds = 5
	for round := range rounds {
		name := fmt.Sprintf("app-%d", round)
		lose()
		want(t, "create", s.Create(t.Context(), name, []byte("one")), nil)
		want(t, "create again", s.Create(t.Context(), name, []byte("one")), keystore.ErrExists)
		rev := holds(t, direct, name, []byte("one"))
		lose()
		want(t, "update", s.Update(t.Context(), name, []byte("two"), rev), nil)
		want(t, "update again", s.Update(t.Context(), name, []byte("two"), rev), keystore.ErrConflict)
		rev = holds(t, direct, name, []byte("two"))
		lose()
		// Whose delete it was may be something that cannot be known.
		want(t, "delete", unless(s.Delete(t.Context(), name, rev), keystore.ErrUnavailable), nil)
		absent(t, direct, name)
	}
	if n := ps.connections(); n < 2*rounds {
		t.Errorf("%d connections: the answers were not lost", n)
	}
}

// testLostCreates has another node change what a create has made, before the create,
// whose answer was lost, is tried again. It does not know then what it has done: with
// ErrExists, package kms would take the keys of its own record for another's, and
// destroy them; and what was deleted stays so.
func testLostCreates(t *testing.T, h Harness) {
	direct := h.Fresh(t)()
	s, ps := network(t, h, 0)
	if s == nil {
		return
	}
	for name, change := range map[string]func(name string, rev keystore.Revision) error{
		"updated": func(name string, rev keystore.Revision) error {
			return direct.Update(t.Context(), name, []byte("two"), rev)
		},
		"deleted": func(name string, rev keystore.Revision) error { return direct.Delete(t.Context(), name, rev) },
	} {
		want(t, "create", s.Create(t.Context(), name+"-before", nil), nil) // there is a connection that can
		ps.set(netfault.Half)
		created := make(chan error, 1)
		go func() { created <- s.Create(t.Context(), name, []byte("one")) }()
		var rev keystore.Revision
		err := keystore.ErrNotFound
		for end := time.Now().Add(recovery); err != nil && time.Now().Before(end); {
			_, rev, err = direct.Get(t.Context(), name)
		}
		want(t, "get what is made", err, nil)
		want(t, "change it", change(name, rev), nil)
		ps.set(netfault.Pass)
		ps.cut()
		want(t, "create", <-created, keystore.ErrUnavailable)
	}
	holds(t, direct, "updated", []byte("two"))
	absent(t, direct, "deleted")
}

// testNetworks: whatever the network does, a call ends in time, and all is well soon
// after it is.
func testNetworks(t *testing.T, h Harness) {
	if h.Network == nil {
		t.Log("the store is not on a network")
		return
	}
	create(t, h.Fresh(t)(), "app", []byte("x"))
	for name, fail := range map[string]func(ps proxies){
		"silent":          func(ps proxies) { ps.set(netfault.Silent) },
		"1 byte a second": func(ps proxies) { ps.set(netfault.Drip) },
		"half closed":     func(ps proxies) { ps.set(netfault.Half) },
		"refused":         func(ps proxies) { ps.set(netfault.Refuse); ps.cut() },
		"slow by 10 s":    func(ps proxies) { ps.delay(10 * time.Second) },
		"reset":           func(ps proxies) { ps.set(netfault.Silent); ps.cut() },
	} {
		s, ps := network(t, h, hasty)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			holds(t, s, "app", []byte("x"))
			fail(ps)
			inTime(t, s, keystore.ErrUnavailable)
			ps.set(netfault.Pass)
			ps.delay(0)
			t.Logf("well after %v", untilWell(t, s))
		})
	}
	s, ps := network(t, h, 0)
	t.Run("slow by 50 ms", func(t *testing.T) {
		t.Parallel()
		ps.delay(50 * time.Millisecond)
		inTime(t, s, nil)
	})
	if one, ps := network(t, h, 0); len(ps) > 1 {
		t.Run("one server silent", func(t *testing.T) {
			t.Parallel()
			holds(t, one, "app", []byte("x"))
			ps[0].Set(netfault.Silent)
			inTime(t, one, nil)
		})
	}
}

// inTime makes calls of which each returns the sentinel, or, if that is nil, what is
// true; within hasty and a second, if they are to fail.
func inTime(t *testing.T, s keystore.Store, sentinel error) {
	t.Helper()
	for call, f := range map[string]func() error{
		"get":    func() error { _, _, err := s.Get(t.Context(), "app"); return err },
		"absent": func() error { _, _, err := s.Get(t.Context(), "none"); return unless(err, keystore.ErrNotFound) },
		"create": func() error { return unless(s.Create(t.Context(), "app", nil), keystore.ErrExists) },
	} {
		start := time.Now()
		want(t, call, f(), sentinel)
		if took := time.Since(start); sentinel != nil && took > hasty+time.Second {
			t.Errorf("%s took %v, more than %v", call, took, hasty)
		}
	}
}

// untilWell waits until a store serves again.
func untilWell(t *testing.T, s keystore.Store) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		_, _, err := s.Get(t.Context(), "app")
		took := time.Since(start)
		if err == nil {
			return took.Round(time.Millisecond)
		}
		if took > recovery {
			t.Fatalf("not well %v after the network is: %v", took, err)
		}
	}
}

// unless returns err, or nil if it is the sentinel.
func unless(err, sentinel error) error {
	if errors.Is(err, sentinel) {
		return nil
	}
	return err
}
