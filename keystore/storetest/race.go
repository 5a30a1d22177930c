package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keygate/keygate/keystore"
)

const nodes = 8

func openAll(t *testing.T, h Harness) []keystore.Store {
	open := h.Fresh(t)
	all := make([]keystore.Store, nodes)
	for i := range all {
		all[i] = open()
	}
	return all
}

// together calls f for each node at the same time and returns the errors.
func together(all []keystore.Store, f func(i int, s keystore.Store) error) []error {
	errs := make([]error, len(all))
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i, s := range all {
		wg.Go(func() {
			<-start
			errs[i] = f(i, s)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// winner returns the index of the one nil in errs; the others must be one of
// the sentinels.
func winner(t *testing.T, errs []error, sentinels ...error) int {
	t.Helper()
	won := -1
	for i, err := range errs {
		switch {
		case err == nil && won < 0:
			won = i
		case err == nil:
			t.Fatalf("nodes %d and %d both succeeded", won, i)
		case !oneOf(err, sentinels):
			t.Fatalf("node %d: got error %v, want one of %v", i, err, sentinels)
		}
	}
	if won < 0 {
		t.Fatal("no node succeeded")
	}
	return won
}

func oneOf(err error, sentinels []error) bool {
	for _, sentinel := range sentinels {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}

func testNodes(t *testing.T, h Harness) {
	open := h.Fresh(t)
	a, b := open(), open()
	rev := create(t, a, "app", []byte("one"))
	if seen := holds(t, b, "app", []byte("one")); seen != rev {
		t.Fatalf("revision is %s at one node and %s at the other", rev, seen)
	}
	want(t, "update", b.Update(t.Context(), "app", []byte("two"), rev), nil)
	want(t, "update", a.Update(t.Context(), "app", []byte("bad"), rev), keystore.ErrConflict)
	rev = holds(t, a, "app", []byte("two"))
	listed(t, open(), "", "", 9, "app")
	want(t, "delete", a.Delete(t.Context(), "app", rev), nil)
	absent(t, b, "app")
	listed(t, b, "", "", 9)
}

func testCreateRace(t *testing.T, h Harness) {
	all := openAll(t, h)
	for round := range h.Creates {
		name := fmt.Sprintf("round-%d", round)
		errs := together(all, func(i int, s keystore.Store) error {
			return s.Create(t.Context(), name, fmt.Appendf(nil, "node %d", i))
		})
		won := winner(t, errs, keystore.ErrExists)
		for _, s := range all {
			holds(t, s, name, fmt.Appendf(nil, "node %d", won))
		}
	}
}

func testDeleteRace(t *testing.T, h Harness) {
	all := openAll(t, h)
	for round := range h.Rounds {
		name := h.fresh("app", round)
		rev := create(t, all[0], name, []byte("one"))
		errs := together(all, func(_ int, s keystore.Store) error { return s.Delete(t.Context(), name, rev) })
		winner(t, errs, keystore.ErrNotFound, keystore.ErrConflict)
		absent(t, all[1], name)
	}
}

// testUpdateRace counts in a record: each success adds one, so the sum of the
// successes is what the record holds in the end.
func testUpdateRace(t *testing.T, h Harness) {
	all := openAll(t, h)
	create(t, all[0], "count", []byte("0"))
	var added, lost atomic.Int64
	errs := together(all, func(_ int, s keystore.Store) error {
		for range h.Rounds {
			err := increment(t.Context(), s, "count")
			switch {
			case err == nil:
				added.Add(1)
			case errors.Is(err, keystore.ErrConflict):
				lost.Add(1)
			default:
				return err
			}
		}
		return nil
	})
	want(t, "increment", errors.Join(errs...), nil)
	if n := added.Load(); n < int64(h.Rounds) {
		t.Errorf("%d updates succeeded, want %d or more: in each round of conflicts one wins", n, h.Rounds)
	}
	t.Logf("%d updates, %d conflicts", added.Load(), lost.Load())
	holds(t, all[1], "count", []byte(strconv.FormatInt(added.Load(), 10)))
}

func increment(ctx context.Context, s keystore.Store, name string) error {
	p, rev, err := s.Get(ctx, name)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(p))
	if err != nil {
		return err
	}
	return s.Update(ctx, name, []byte(strconv.Itoa(n+1)), rev)
}

// testReaders writes long records of one repeated byte while others read.
func testReaders(t *testing.T, h Harness) {
	open := h.Fresh(t)
	w, r := open(), open()
	long := func(round int) []byte { return bytes.Repeat([]byte{byte('a' + round%26)}, 40_000+round) }
	rev := create(t, w, "app", long(0))
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	for range 2 {
		wg.Go(func() { readWhole(t, r, done) })
	}
	defer close(done)
	for round := 1; round <= h.Rounds; round++ {
		want(t, "update", w.Update(t.Context(), "app", long(round), rev), nil)
		rev = holds(t, w, "app", long(round))
	}
}

func readWhole(t *testing.T, s keystore.Store, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		p, _, err := s.Get(t.Context(), "app")
		if err != nil || len(p) < 40_000 || bytes.Count(p, p[:1]) != len(p) {
			t.Errorf("get: %d bytes that no write wrote, error %v", len(p), err)
			return
		}
		names, err := s.List(t.Context(), "", "", 9)
		if err != nil || len(names) != 1 || names[0] != "app" {
			t.Errorf("list: got %q, error %v, want [app]", names, err)
			return
		}
	}
}
