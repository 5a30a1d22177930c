package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
)

// cancelled is how many names testCancelled works on, and how many calls run at a
// time: more than a driver has connections.
const cancelled = 24

// testCancelled cancels calls while they run, each at another moment: what a call
// returns is its own, and the store goes on as if nothing had been.
func testCancelled(t *testing.T, h Harness) {
	s := h.Fresh(t)()
	for i := range cancelled {
		create(t, s, cancelledName(i), cancelledRecord(i, 0))
	}
	longest := callTime(t, s) * cancelled
	var done, ended atomic.Int64
	var wg sync.WaitGroup
	for i := range cancelled {
		wg.Go(func() {
			for n := range h.Cancelled / cancelled {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(longest))
				err := cancelledCall(ctx, t, s, i, n)
				cancel()
				switch {
				case err == nil:
					done.Add(1)
				case errors.Is(err, keystore.ErrUnavailable) && ctx.Err() != nil:
					ended.Add(1)
				default:
					t.Errorf("a call that was cancelled: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d calls ended before their answer, %d did not, of up to %v", ended.Load(), done.Load(), longest)
	if ended.Load() == 0 && longest > cancelled*shortCall {
		t.Error("no call was cancelled")
	}
	want(t, "status", s.Status(t.Context()), nil)
	for i := range cancelled {
		p, rev, err := s.Get(t.Context(), cancelledName(i))
		want(t, "get", err, nil)
		checkCancelled(t, i, p)
		want(t, "update", s.Update(t.Context(), cancelledName(i), cancelledRecord(i, 0), rev), nil)
	}
}

func cancelledName(i int) string { return fmt.Sprintf("app-%d", i) }

// cancelledRecord has a size of its own, so that half of another shows.
func cancelledRecord(i, n int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%04d-%06d ", i, n), 20+i)
}

func checkCancelled(t *testing.T, i int, p []byte) {
	t.Helper()
	var name, n int
	if _, err := fmt.Sscanf(string(p), "%d-%d", &name, &n); err != nil || name != i || !bytes.Equal(p, cancelledRecord(i, n)) {
		t.Errorf("%s holds %.40q", cancelledName(i), p)
	}
}

// cancelledCall reads, and now and then writes.
func cancelledCall(ctx context.Context, t *testing.T, s keystore.Store, i, n int) error {
	if n%8 == 7 {
		names, err := s.List(ctx, cancelledName(i), "", 1)
		if err == nil && (len(names) != 1 || names[0] != cancelledName(i)) {
			t.Errorf("list of %s: %q", cancelledName(i), names)
		}
		return err
	}
	p, rev, err := s.Get(ctx, cancelledName(i))
	if err != nil {
		return err
	}
	checkCancelled(t, i, p)
	if n%8 != 3 {
		return nil
	}
	err = s.Update(ctx, cancelledName(i), cancelledRecord(i, n), rev)
	if errors.Is(err, keystore.ErrConflict) {
		// An update whose answer came too late may have been done meanwhile.
		return nil
	}
	return err
}

// shortCall is less than any call takes that leaves the process. Others are too
// short to be cancelled for sure.
const shortCall = 50 * time.Microsecond

// callTime returns about how long a Get takes.
func callTime(t *testing.T, s keystore.Store) time.Duration {
	start := time.Now()
	const n = 20
	for range n {
		_, _, err := s.Get(t.Context(), cancelledName(0))
		want(t, "get", err, nil)
	}
	return max(time.Since(start)/n, shortCall)
}
