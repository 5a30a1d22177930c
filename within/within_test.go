package within_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keygate/keygate/within"
)

func begin(parent context.Context, end time.Time) *within.Context {
	c := new(within.Context)
	c.Begin(parent, end)
	return c
}

func is(t *testing.T, what string, c context.Context, want error) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: it does not end", what)
	}
	if !errors.Is(c.Err(), want) {
		t.Errorf("%s: error %v, not %v", what, c.Err(), want)
	}
}

type key struct{}

func TestItEnds(t *testing.T) {
	parent := context.WithValue(context.Background(), key{}, "value")
	for _, waited := range []bool{false, true} {
		made := func(parent context.Context, end time.Time) *within.Context {
			c := begin(parent, end)
			err := c.Err()
			if end, timed := c.Deadline(); err != nil && (!timed || time.Until(end) > 0) {
				t.Errorf("it has ended already: %v", err)
			}
			if waited {
				c.Done()
			}
			if c.Value(key{}) != "value" || c.Parent() != parent {
				t.Error("it is not its parent's child")
			}
			return c
		}
		end := time.Now().Add(50 * time.Millisecond)
		c := made(parent, end)
		if got, ok := c.Deadline(); !ok || !got.Equal(end) {
			t.Errorf("deadline %v, %v", got, ok)
		}
		is(t, "at its time", c, context.DeadlineExceeded)
		is(t, "a time that is over", made(parent, time.Now().Add(-time.Second)), context.DeadlineExceeded)

		sooner, cancel := context.WithDeadline(parent, end)
		defer cancel()
		for _, end := range []time.Time{{}, time.Now().Add(time.Hour)} {
			c := made(sooner, end)
			if got, ok := c.Deadline(); !ok || !got.Equal(end) && got.After(end) && !end.IsZero() {
				t.Errorf("deadline %v, %v", got, ok)
			}
			is(t, "with its parent's time", c, context.DeadlineExceeded)
			gone, cancel := context.WithCancel(parent)
			c = made(gone, end)
			cancel()
			is(t, "with its parent", c, context.Canceled)
			c = made(parent, end)
			c.Stop()
			is(t, "when it is stopped", c, context.Canceled)
		}
		if _, ok := made(parent, time.Time{}).Deadline(); ok {
			t.Error("there is a deadline without one")
		}
	}
}

func TestErrWithoutAWait(t *testing.T) {
	c := begin(context.Background(), time.Now().Add(-time.Second))
	if !errors.Is(c.Err(), context.DeadlineExceeded) {
		t.Errorf("error %v before anybody has waited", c.Err())
	}
	c = begin(context.Background(), time.Now().Add(time.Hour))
	c.Stop()
	if !errors.Is(c.Err(), context.Canceled) {
		t.Errorf("error %v of one that was stopped", c.Err())
	}
}

func TestAContextThatIsMadeOfItEndsWithIt(t *testing.T) {
	c := begin(context.Background(), time.Now().Add(20*time.Millisecond))
	child, cancel := context.WithTimeout(c, time.Hour)
	defer cancel()
	is(t, "the child", child, context.DeadlineExceeded)
}

func TestItAllocatesNothingUntilSomebodyWaits(t *testing.T) {
	parent, c := context.Background(), new(within.Context)
	end := time.Now().Add(time.Hour)
	if n := testing.AllocsPerRun(100, func() { c.Begin(parent, end); _ = c.Err() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
