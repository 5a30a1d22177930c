package hsm

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keygate/keygate/kms"
)

// failedOp is an op that has begun to make so many keys.
func failedOp(id byte, n int32) *op {
	o := Config{Residency: residencyToken}.numbered(&op{kind: opNewKey, id: kms.KeyID{id}, purpose: kms.Encryption})
	o.begun.says(n)
	return o
}

// A cleaning is a cleaner of a timeout of 1 s, and what it did.
type cleaning struct {
	cleaner
	begun  time.Time
	at     []time.Duration // when destroy was called
	answer error           // of destroy
	said   bytes.Buffer    // its log
}

// cleans runs a test with a cleaning.
func cleans(t *testing.T, test func(t *testing.T, c *cleaning)) {
	synctest.Test(t, func(t *testing.T) {
		c := &cleaning{begun: time.Now()}
		c.log, c.wait = slog.New(slog.NewTextHandler(&c.said, nil)), time.Second
		c.destroy = func(context.Context, *op) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.at = append(c.at, time.Since(c.begun))
			return c.answer
		}
		test(t, c)
		c.close()
	})
}

// pass has some time pass, and returns what was done up to then.
func (c *cleaning) pass(d time.Duration, answer error) (at []time.Duration, left int, said string) {
	time.Sleep(d)
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
	return slices.Clone(c.at), len(c.all), c.said.String()
}

func TestWhatMayBeLeftIsLookedForAgain(t *testing.T) {
	cleans(t, func(t *testing.T, c *cleaning) {
		c.after(&op{kind: opEncrypt}, nil)
		c.after(failedOp(1, 0), nil)
		o := failedOp(2, 1)
		c.after(o, o.nth(0).marshal()) // it answered this one
		if at, _, _ := c.pass(time.Hour, nil); len(at) > 0 {
			t.Errorf("it looks for nothing, %d times", len(at))
		}
		c.after(failedOp(3, 1), nil)
		at, left, said := c.pass(time.Hour, nil)
		if want := []time.Duration{time.Hour, time.Hour + time.Second, time.Hour + 9*time.Second}; !slices.Equal(at, want) {
			t.Errorf("it looks at %v, not %v", at, want)
		}
		if left > 0 || said != "" {
			t.Errorf("%d are left, and the log is %s", left, said)
		}
	})
}

func TestWhatCannotBeDestroyedIsTriedForAnHour(t *testing.T) {
	cleans(t, func(t *testing.T, c *cleaning) {
		c.pass(0, errHung)
		c.after(failedOp(1, 1), nil)
		at, _, said := c.pass(59*time.Minute, errHung)
		if len(at) < 60 || len(at) > 70 || said != "" {
			t.Errorf("%d times within an hour, and the log is %s", len(at), said)
		}
		at, left, said := c.pass(5*time.Minute, nil)
		if left > 0 || strings.Count(said, "keys that nobody has may be in the token") != 1 {
			t.Errorf("%d are left, and the log is %s", left, said)
		}
		// One that comes when the token works again is destroyed.
		c.after(failedOp(2, 1), nil)
		if again, _, _ := c.pass(time.Minute, nil); len(again)-len(at) != 3 {
			t.Errorf("%d looks", len(again)-len(at))
		}
	})
}

// A cleaner that is closed while a call hangs waits no longer than one may take, and
// tells of what it has not looked for.
func TestACleanerIsClosedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := &cleaner{log: slog.New(slog.NewTextHandler(&log, nil)), wait: time.Second, destroy: func(ctx context.Context, _ *op) error {
			<-ctx.Done()
			return ctx.Err()
		}}
		for i := range byte(10) {
			c.after(failedOp(i, 2), nil)
		}
		synctest.Wait()
		begun := time.Now()
		c.close()
		if took := time.Since(begun); took != time.Second {
			t.Errorf("it took %v", took)
		}
		if !strings.Contains(log.String(), "keys=20") {
			t.Errorf("the log is %s", &log)
		}
		c.after(failedOp(1, 1), nil)
		if !strings.Contains(log.String(), "the root is closed") {
			t.Errorf("the log is %s", &log)
		}
	})
}

// The names of the tries of an op follow one another, and no two ops have one in common.
func TestNamesOfTries(t *testing.T) {
	seen := make(map[string]bool)
	for i := range byte(100) {
		o := failedOp(i%2, maxMade+5)
		all := o.leftovers(nil)
		for n, left := range all {
			h := left.nth(0)
			if seen[string(h.objectID())] || !bytes.Equal(h.objectID(), o.nth(n).objectID()) {
				t.Fatalf("name %d of op %d is %x", n, i, h.objectID())
			}
			seen[string(h.objectID())] = true
		}
		if before := o.leftovers(o.nth(3).marshal()); len(before) != 3 || len(all) != maxMade {
			t.Errorf("%d are left before the fourth, and %d of all", len(before), len(all))
		}
	}
	last := op{kind: opNewKey, number: kekID{255, 255, 255, 255, 255, 255, 255, 255}}
	if next := last.nth(1).kek; next != (kekID{}) {
		t.Errorf("after the last number comes %x", next)
	}
}
