package hsm

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestWithinEndsLikeContextWithTimeout(t *testing.T) {
	for name, c := range map[string]struct {
		parent time.Duration // the deadline of the parent; zero: none
		cancel time.Duration // when the parent is cancelled; zero: never
		want   error
		after  time.Duration
	}{
		"at its time":            {want: context.DeadlineExceeded, after: time.Second},
		"at its parent's":        {parent: 300 * time.Millisecond, want: context.DeadlineExceeded, after: 300 * time.Millisecond},
		"before its parent's":    {parent: time.Hour, want: context.DeadlineExceeded, after: time.Second},
		"with its parent's end":  {cancel: 200 * time.Millisecond, want: context.Canceled, after: 200 * time.Millisecond},
		"and no later than that": {cancel: time.Hour, want: context.DeadlineExceeded, after: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				parent, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.parent != 0 {
					var stop context.CancelFunc
					parent, stop = context.WithTimeout(parent, c.parent)
					defer stop()
				}
				if c.cancel != 0 {
					defer time.AfterFunc(c.cancel, cancel).Stop()
				}
				waited, looked := newWithin(parent, time.Second), newWithin(parent, time.Second)
				defer waited.stop()
				defer looked.stop()
				if err := looked.Err(); err != nil {
					t.Errorf("it begins with %v", err)
				}
				begin := time.Now()
				<-waited.Done()
				synctest.Wait()
				if took := time.Since(begin); took != c.after {
					t.Errorf("it ended after %v, not %v", took, c.after)
				}
				for _, w := range []*within{waited, looked} {
					if err := w.Err(); err != c.want {
						t.Errorf("it ended with %v, not %v", err, c.want)
					}
				}
			})
		})
	}
}

func TestWithinIsOverAfterStop(t *testing.T) {
	before, after := newWithin(t.Context(), time.Hour), newWithin(t.Context(), time.Hour)
	done := before.Done()
	before.stop()
	after.stop()
	<-done
	<-after.Done()
	for _, w := range []*within{before, after} {
		if err := w.Err(); err != context.Canceled {
			t.Errorf("error is %v", err)
		}
	}
}
