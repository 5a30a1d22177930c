package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/storetest/netfault"
)

// A watched is a Watch that runs.
type watched struct {
	told  chan string
	ended chan error
	stop  context.CancelFunc
}

// watch starts to watch s, and returns when it has said that it hears of all
// changes from now on; nil if s has no watch.
func watch(t *testing.T, s keystore.Store) *watched {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	w := &watched{make(chan string, 10_000), make(chan error, 1), stop}
	go func() { w.ended <- s.Watch(ctx, func(name string) { w.told <- name }) }()
	t.Cleanup(stop)
	select {
	case name := <-w.told:
		if name != "" {
			t.Fatalf("told of %q before the beginning", name)
		}
		return w
	case err := <-w.ended:
		want(t, "watch", err, keystore.ErrNoWatch)
		t.Log("the store has no watch")
		return nil
	case <-time.After(10 * time.Second):
		t.Fatal("the watch did not begin in 10 s")
		return nil
	}
}

// hears waits until the watch tells of name.
func (w *watched) hears(t *testing.T, name string) {
	t.Helper()
	late := time.After(keystore.WatchBound)
	for {
		select {
		case got := <-w.told:
			if got == name {
				return
			}
			if got != "" {
				t.Fatalf("told of %q, want %q", got, name)
			}
		case err := <-w.ended:
			t.Fatalf("the watch ended: %v", err)
		case <-late:
			t.Fatalf("not told of the change of %s within %v", name, keystore.WatchBound)
		}
	}
}

func testWatch(t *testing.T, h Harness) {
	open := h.Fresh(t)
	s, watcher := open(), open()
	create(t, s, "before", []byte("x"))
	w := watch(t, watcher)
	if w == nil {
		return
	}
	for _, writer := range []keystore.Store{s, watcher} {
		for range 3 {
			rev := create(t, writer, "app", []byte("one"))
			w.hears(t, "app")
			want(t, "update", writer.Update(t.Context(), "app", []byte("two"), rev), nil)
			w.hears(t, "app")
			rev = holds(t, writer, "app", []byte("two"))
			want(t, "delete", writer.Delete(t.Context(), "app", rev), nil)
			w.hears(t, "app")
		}
	}
}

func testWatchEnds(t *testing.T, h Harness) {
	s := h.Fresh(t)()
	w := watch(t, s)
	if w == nil {
		return
	}
	w.stop()
	select {
	case err := <-w.ended:
		want(t, "watch", err, context.Canceled)
		want(t, "watch", err, keystore.ErrUnavailable)
	case <-time.After(time.Second):
		t.Fatal("the watch goes on after its context has ended")
	}
	n := len(w.told)
	create(t, s, "app", []byte("x"))
	if len(w.told) != n {
		t.Error("told of a change after the end")
	}
}

func testWatchCloses(t *testing.T, h Harness) {
	s := h.Fresh(t)()
	w := watch(t, s)
	if w == nil {
		return
	}
	want(t, "close", s.Close(), nil)
	select {
	case err := <-w.ended:
		want(t, "watch", err, keystore.ErrUnavailable)
	case <-time.After(keystore.WatchBound):
		t.Fatal("the watch goes on after its store was closed")
	}
	err := s.Watch(t.Context(), func(name string) { t.Errorf("told of %q by a store that is closed", name) })
	want(t, "watch", err, keystore.ErrUnavailable)
}

// testWatchLasts: a watch of a store to which nothing happens does not end.
func testWatchLasts(t *testing.T, h Harness) {
	open := h.Fresh(t)
	s, w := open(), watch(t, open())
	if w == nil {
		return
	}
	time.Sleep(keystore.WatchBound + time.Second)
	create(t, s, "app", []byte("x"))
	w.hears(t, "app")
}

// testSilence cuts the watcher off so that nothing tells it so.
func testSilence(t *testing.T, h Harness) {
	open := h.Fresh(t)
	writer := open()
	watcher, ps := network(t, h, 0)
	if watcher == nil {
		return
	}
	w := watch(t, watcher)
	if w == nil {
		return
	}
	rev := create(t, writer, "app", []byte("one"))
	w.hears(t, "app")
	ps.set(netfault.Silent)
	want(t, "update", writer.Update(t.Context(), "app", []byte("two"), rev), nil)
	changed := time.Now()
	select {
	case err := <-w.ended:
		want(t, "watch", err, keystore.ErrUnavailable)
		t.Logf("the watch ended after %v: %v", time.Since(changed).Round(time.Millisecond), err)
	case <-time.After(keystore.WatchBound):
		t.Fatalf("the watch is silent for more than %v", keystore.WatchBound)
	}
}

// watchStrange: a store that is not this cluster's cannot be watched.
func watchStrange(t *testing.T, s keystore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*keystore.WatchBound)
	defer cancel()
	err := s.Watch(ctx, func(name string) { t.Errorf("told of %q", name) })
	if ctx.Err() != nil || !oneOf(err, []error{keystore.ErrUnavailable, keystore.ErrDenied, keystore.ErrNoWatch}) {
		t.Errorf("watch: got %v, want ErrUnavailable in %v", err, keystore.WatchBound)
	}
	if errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("watch: %v", err)
	}
}
