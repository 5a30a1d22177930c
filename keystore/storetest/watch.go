package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
)

// testWatch writes until the watch of another node has told of it: a watch may
// start late, and is best effort.
func testWatch(t *testing.T, h Harness) {
	open := h.Fresh(t)
	s, watcher := open(), open()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	told, ended := make(chan string, 1), make(chan error, 1)
	go func() {
		ended <- watcher.Watch(ctx, func(name string) {
			select {
			case told <- name:
			default:
			}
		})
	}()
	rev := create(t, s, "app", []byte("x"))
	for {
		select {
		case err := <-ended:
			if !errors.Is(err, keystore.ErrNoWatch) {
				t.Fatalf("watch ended with %v before its context did", err)
			}
			return
		case name := <-told:
			if name != "app" {
				t.Fatalf("told of %q, want app", name)
			}
			cancel()
			<-ended
			return
		case <-ctx.Done():
			t.Fatal("not told of the change in 10 s")
		case <-time.After(20 * time.Millisecond):
			want(t, "update", s.Update(t.Context(), "app", []byte("x"), rev), nil)
			rev = holds(t, s, "app", []byte("x"))
		}
	}
}
