package hsm

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keygate/keygate/kms"
)

func always() bool { return true }
func never() bool  { return false }

// begins begins a change with so much time, or fails.
func begins(t *testing.T, q *changes, within time.Duration, may func() bool) (letGo func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	letGo, err := q.take(ctx, 2*time.Second, may)
	if err != nil {
		t.Fatal(err)
	}
	return letGo
}

func waitsInVain(t *testing.T, q *changes, within time.Duration, may func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if _, err := q.take(ctx, 2*time.Second, may); !errors.Is(err, kms.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error is %v", err)
	}
}

func TestChangesAreOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newChanges()
		one := begins(t, q, time.Second, always)
		waitsInVain(t, q, time.Second, always)
		time.AfterFunc(500*time.Millisecond, one)
		begun := time.Now()
		begins(t, q, time.Second, never)()
		if took := time.Since(begun); took != 500*time.Millisecond {
			t.Errorf("it waited %v", took)
		}
		if q.hang(0) {
			t.Error("one has not ended")
		}
	})
}

// One that hangs keeps its place for 2 s, or for ever if nobody may go before it. It
// takes it from no other when it ends.
func TestAChangeThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newChanges()
		hung := begins(t, q, time.Second, always)
		waitsInVain(t, q, 5*time.Second, never)
		if !q.hang(5*time.Second) || q.hang(6*time.Second) {
			t.Error("it is not told how long one hangs")
		}
		second := begins(t, q, time.Second, always)
		waitsInVain(t, q, time.Second, always)
		second()
		waitsInVain(t, q, time.Second, never)
		second = begins(t, q, time.Second, always)
		hung()
		waitsInVain(t, q, 500*time.Millisecond, always)
		second()
		third := begins(t, q, time.Second, never)
		third()
		if q.hang(0) || len(q.place) != 0 {
			t.Error("a change has not ended")
		}
	})
}
