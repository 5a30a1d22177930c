package storetest

import (
	"bytes"
	"context"
	"testing"

	"github.com/keygate/keygate/keystore"
)

func testLife(t *testing.T, h Harness) {
	s, ctx := h.Fresh(t)(), t.Context()
	want(t, "status", s.Status(ctx), nil)
	absent(t, s, "app")
	rev := create(t, s, "app", []byte("one"))
	want(t, "update", s.Update(ctx, "app", []byte("two"), rev), nil)
	rev = holds(t, s, "app", []byte("two"))
	want(t, "delete", s.Delete(ctx, "app", rev), nil)
	absent(t, s, "app")
	h.again(t, s, "app", []byte("three"))
}

func testCreateExists(t *testing.T, h Harness) {
	s := h.Fresh(t)()
	rev := create(t, s, "app", []byte("one"))
	for range 3 {
		want(t, "create", s.Create(t.Context(), "app", []byte("other")), keystore.ErrExists)
		if again := holds(t, s, "app", []byte("one")); again != rev {
			t.Fatalf("revision went from %s to %s", rev, again)
		}
	}
}

func testAbsent(t *testing.T, h Harness) {
	s, ctx := h.Fresh(t)(), t.Context()
	rev := create(t, s, "app", []byte("one"))
	absent(t, s, "ap")
	absent(t, s, "app1")
	want(t, "update", s.Update(ctx, "none", []byte("x"), rev), keystore.ErrNotFound)
	want(t, "delete", s.Delete(ctx, "none", rev), keystore.ErrNotFound)
	absent(t, s, "none")
	want(t, "delete", s.Delete(ctx, "app", rev), nil)
	want(t, "update after delete", s.Update(ctx, "app", []byte("x"), rev), keystore.ErrNotFound)
	want(t, "second delete", s.Delete(ctx, "app", rev), keystore.ErrNotFound)
}

func testConflict(t *testing.T, h Harness) {
	s, ctx := h.Fresh(t)(), t.Context()
	old := create(t, s, "app", []byte("one"))
	other := create(t, s, "other", []byte("one"))
	want(t, "update", s.Update(ctx, "app", []byte("two"), old), nil)
	now := holds(t, s, "app", []byte("two"))
	for _, rev := range []keystore.Revision{old, other, "", "x", now + "0", keystore.Revision(bytes.Repeat([]byte("9"), 300))} {
		want(t, "update at "+string(rev), s.Update(ctx, "app", []byte("bad"), rev), keystore.ErrConflict)
		want(t, "delete at "+string(rev), s.Delete(ctx, "app", rev), keystore.ErrConflict)
	}
	if rev := holds(t, s, "app", []byte("two")); rev != now {
		t.Fatalf("revision went from %s to %s", now, rev)
	}
}

func testRevisions(t *testing.T, h Harness) {
	s, ctx := h.Fresh(t)(), t.Context()
	seen := map[keystore.Revision]bool{}
	once := func(rev keystore.Revision) keystore.Revision {
		if seen[rev] {
			t.Fatalf("revision %s came again", rev)
		}
		seen[rev] = true
		return rev
	}
	same := []byte("the same content each time")
	for round := range 10 {
		name := h.fresh("app", round)
		rev := once(create(t, s, name, same))
		want(t, "update", s.Update(ctx, name, same, rev), nil)
		next := once(holds(t, s, name, same))
		want(t, "delete", s.Delete(ctx, name, next), nil)
	}
	last := h.fresh("app", 10)
	create(t, s, last, same)
	for rev := range seen {
		want(t, "update at a revision of before the delete", s.Update(ctx, last, []byte("x"), rev), keystore.ErrConflict)
	}
}

func testOwnership(t *testing.T, h Harness) {
	s, ctx := h.Fresh(t)(), t.Context()
	p := []byte("one")
	want(t, "create", s.Create(ctx, "app", p), nil)
	copy(p, "xxx")
	rev := holds(t, s, "app", []byte("one"))
	p = []byte("two")
	want(t, "update", s.Update(ctx, "app", p, rev), nil)
	copy(p, "xxx")
	got, _, err := s.Get(ctx, "app")
	want(t, "get", err, nil)
	copy(got, "xxx")
	got = append(got, "xxx"...)
	clear(got)
	holds(t, s, "app", []byte("two"))
	names, err := s.List(ctx, "", "", 1)
	want(t, "list", err, nil)
	names[0] = "changed"
	listed(t, s, "", "", 9, "app")
}

func testContext(t *testing.T, h Harness) {
	s := h.Fresh(t)()
	rev := create(t, s, "app", []byte("one"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, get := s.Get(ctx, "app")
	_, list := s.List(ctx, "", "", 9)
	for call, err := range map[string]error{
		"create": s.Create(ctx, "new", []byte("x")),
		"get":    get,
		"update": s.Update(ctx, "app", []byte("x"), rev),
		"delete": s.Delete(ctx, "app", rev),
		"list":   list,
		"status": s.Status(ctx),
	} {
		want(t, call, err, keystore.ErrUnavailable)
		want(t, call, err, context.Canceled)
	}
	absent(t, s, "new")
	if now := holds(t, s, "app", []byte("one")); now != rev {
		t.Fatalf("revision went from %s to %s", rev, now)
	}
}

func testClose(t *testing.T, h Harness) {
	s, ctx := h.Fresh(t)(), t.Context()
	rev := create(t, s, "app", []byte("one"))
	want(t, "close", s.Close(), nil)
	_, _, get := s.Get(ctx, "app")
	_, list := s.List(ctx, "", "", 9)
	for call, err := range map[string]error{
		"create": s.Create(ctx, "new", []byte("x")),
		"get":    get,
		"update": s.Update(ctx, "app", []byte("x"), rev),
		"delete": s.Delete(ctx, "app", rev),
		"list":   list,
		"status": s.Status(ctx),
	} {
		want(t, call, err, keystore.ErrUnavailable)
	}
	want(t, "second close", s.Close(), nil)
}
