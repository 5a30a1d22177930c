package kms_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

// following has k follow its store until the test ends, and waits until it does.
func following(t *testing.T, k *kms.KMS) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Follow(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	soon(t, "the watch is alive", func() bool { return k.Stats().Watching })
	return stop
}

// soon waits until it is so.
func soon(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 5 s it is not so that %s", what)
		}
	}
}

// A watchable store can be told to lose its watch, to be silent, and to hold reads.
type watchable struct {
	*faulty
	lose   chan error
	silent atomic.Bool

	mu   sync.Mutex
	hold chan struct{} // reads wait for it, once they have been answered
	held chan struct{} // told when one waits
}

func newWatchable() *watchable {
	return &watchable{faulty: &faulty{Store: memory.New()}, lose: make(chan error)}
}

func (w *watchable) Watch(ctx context.Context, changed func(string)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		ended <- w.Store.Watch(ctx, func(name string) {
			if !w.silent.Load() {
				changed(name)
			}
		})
	}()
	select {
	case err := <-ended:
		return err
	case err := <-w.lose:
		cancel()
		<-ended
		return err
	}
}

func (w *watchable) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	p, rev, err := w.faulty.Get(ctx, name)
	w.mu.Lock()
	hold, held := w.hold, w.held
	w.hold = nil
	w.mu.Unlock()
	if hold != nil {
		close(held)
		<-hold
	}
	return p, rev, err
}

// holdNext has the next read wait, when it has its answer, until release.
func (w *watchable) holdNext() (held <-chan struct{}, release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	hold, told := make(chan struct{}), make(chan struct{})
	w.hold, w.held = hold, told
	return told, func() { close(hold) }
}

func TestKS21_AChangeThatIsToldHoldsAtOnce(t *testing.T) {
	store, root := memory.New(), hsmtest.Root(t)
	c := newClock()
	one, err := kms.New(config(c), root, store)
	ok(t, err)
	two, err := kms.New(config(c), root, store)
	ok(t, err)
	following(t, two)
	_, err = one.CreateKey(t.Context(), "a", "")
	ok(t, err)
	_, ciphertext, _, err := two.GenerateDataKey(t.Context(), "a", nil)
	ok(t, err)
	if two.Stats().Branches == 0 {
		t.Fatal("no branch key in memory")
	}
	_, err = one.DeleteKey(t.Context(), "a")
	ok(t, err)
	// Without any use of the key, and though no time passes.
	soon(t, "the branch keys are gone", func() bool { return two.Stats().Branches == 0 })
	_, _, err = two.Decrypt(t.Context(), "a", ciphertext, nil)
	is(t, err, kms.ErrPendingDeletion)
}

func TestRecordsLiveLongerWhileTheStoreTellsOfChanges(t *testing.T) {
	store, c := newWatchable(), newClock()
	k := open(t, config(c), store)
	_, err := k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	stop := following(t, k)
	use := func(reads int64) {
		t.Helper()
		before := store.reads.Load()
		_, err := k.DescribeKey(t.Context(), "a")
		ok(t, err)
		if got := store.reads.Load() - before; got != reads {
			t.Fatalf("%d reads, want %d", got, reads)
		}
	}
	c.advance(6 * time.Second)
	use(1) // was read before the watch began
	use(0)
	c.advance(59 * time.Second)
	use(0)
	c.advance(2 * time.Second)
	use(1) // even so, once a minute
	c.advance(4 * time.Second)
	stop()
	use(0) // four seconds after its check
	c.advance(2 * time.Second)
	use(1)
}

func TestKS27_AWatchThatIsLostEndsTheLongLife(t *testing.T) {
	store, c := newWatchable(), newClock()
	k := open(t, config(c), store)
	_, err := k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	following(t, k)
	c.advance(6 * time.Second)
	_, err = k.DescribeKey(t.Context(), "a")
	ok(t, err)
	c.advance(30 * time.Second)
	store.silent.Store(true) // so that the next watch does not begin
	store.lose <- errors.New("lost")
	soon(t, "the watch is lost", func() bool { return !k.Stats().Watching })
	if got := k.Stats().WatchesLost; got != 1 {
		t.Errorf("%d watches were lost, not 1", got)
	}
	before := store.reads.Load()
	_, err = k.DescribeKey(t.Context(), "a")
	ok(t, err)
	if store.reads.Load() == before {
		t.Error("a record that was checked 30 s ago is used without a watch")
	}
	store.silent.Store(false)
	store.lose <- errors.New("lost again")
	soon(t, "another watch is alive", func() bool { return k.Stats().Watching })
}

// TestKS21_AReadThatWasOvertakenDoesNotLast: the store has answered a read, and the
// answer is under way while the change is told, and the node has nothing yet that
// could be marked.
func TestKS21_AReadThatWasOvertakenDoesNotLast(t *testing.T) {
	for _, known := range []bool{false, true} {
		store, c := newWatchable(), newClock()
		root := hsmtest.Root(t)
		one, err := kms.New(config(c), root, store.Store)
		ok(t, err)
		_, err = one.CreateKey(t.Context(), "a", "")
		ok(t, err)
		two, err := kms.New(config(c), root, store)
		ok(t, err)
		if known {
			_, err = two.DescribeKey(t.Context(), "a")
			ok(t, err)
			c.advance(time.Minute)
		}
		following(t, two)
		held, release := store.holdNext()
		got := make(chan kms.State)
		go func() {
			info, err := two.DescribeKey(context.WithoutCancel(t.Context()), "a")
			if err != nil {
				t.Error(err)
			}
			got <- info.State
		}()
		<-held
		changes := two.Stats().Changes
		_, err = one.DeleteKey(t.Context(), "a")
		ok(t, err)
		soon(t, "the change is told", func() bool { return two.Stats().Changes > changes })
		release()
		state := <-got
		if known && state != kms.PendingDeletion {
			t.Errorf("the read that was overtaken answers %v", state)
		}
		c.advance(5 * time.Second)
		info, err := two.DescribeKey(t.Context(), "a")
		ok(t, err)
		if info.State != kms.PendingDeletion {
			t.Errorf("known %v: 5 s after the change the key is %v", known, info.State)
		}
	}
}

func TestARecordThatHasChangedIsNotUsedWhileTheStoreIsOut(t *testing.T) {
	store, c := newWatchable(), newClock()
	root := hsmtest.Root(t)
	cfg := config(c)
	cfg.Offline = time.Hour
	one, err := kms.New(config(c), root, store.Store)
	ok(t, err)
	two, err := kms.New(cfg, root, store)
	ok(t, err)
	_, err = one.CreateKey(t.Context(), "a", "")
	ok(t, err)
	following(t, two)
	_, err = two.DescribeKey(t.Context(), "a")
	ok(t, err)
	store.fail.Store(true)
	c.advance(2 * time.Minute)
	_, err = two.DescribeKey(t.Context(), "a")
	ok(t, err) // offline
	changes := two.Stats().Changes
	_, err = one.DeleteKey(t.Context(), "a")
	ok(t, err)
	soon(t, "the change is told", func() bool { return two.Stats().Changes > changes })
	_, err = two.DescribeKey(t.Context(), "a")
	is(t, err, kms.ErrUnavailable)
	store.fail.Store(false)
	info, err := two.DescribeKey(t.Context(), "a")
	ok(t, err)
	if info.State != kms.PendingDeletion {
		t.Errorf("the key is %v", info.State)
	}
}

func TestKS21_AProcessThatStoodStillTrustsNoWatch(t *testing.T) {
	store, c := newWatchable(), newClock()
	k := open(t, config(c), store)
	_, err := k.CreateKey(t.Context(), "a", "")
	ok(t, err)
	following(t, k)
	c.advance(6 * time.Second)
	_, err = k.DescribeKey(t.Context(), "a")
	ok(t, err)
	c.advance(6 * time.Second)
	before := store.reads.Load()
	_, err = k.DescribeKey(t.Context(), "a")
	ok(t, err)
	if store.reads.Load() != before {
		t.Fatal("the record was read again, though it is watched")
	}
	k.StandStill(3 * time.Second)
	_, err = k.DescribeKey(t.Context(), "a")
	ok(t, err)
	if store.reads.Load() == before {
		t.Error("the record was not read again")
	}
	soon(t, "the watch is over", func() bool { return k.Stats().WatchesLost > 0 })
	soon(t, "there is another", func() bool { return k.Stats().Watching })
}

// An unwatched store has no watch.
type unwatched struct{ keystore.Store }

func (unwatched) Watch(context.Context, func(string)) error { return keystore.ErrNoWatch }

func TestFollowReturnsAtOnceWithoutAWatch(t *testing.T) {
	k := open(t, config(newClock()), unwatched{memory.New()})
	k.Follow(t.Context())
	if k.Stats().Watching || k.Stats().WatchesLost != 0 {
		t.Errorf("stats are %+v", k.Stats())
	}
}

// A buggy store has a bug in its watch.
type buggy struct {
	keystore.Store
	watches atomic.Int64
}

func (p *buggy) Watch(_ context.Context, changed func(string)) error {
	p.watches.Add(1)
	changed("")
	panic("a bug")
}

func TestAPanicInAWatchEndsTheWatchOnly(t *testing.T) {
	store := &buggy{Store: memory.New()}
	k := open(t, config(newClock()), store)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Follow(ctx) }()
	soon(t, "it is watched again", func() bool { return store.watches.Load() >= 3 })
	cancel()
	<-done
	if k.Stats().Watching {
		t.Error("the watch that panicked is taken for alive")
	}
}

// TestAWatchThatNeverBeginsIsLoggedOnce: it is tried again for ever.
func TestAWatchThatNeverBeginsIsLoggedOnce(t *testing.T) {
	store := &neverWatched{Store: memory.New(), tries: make(chan struct{})}
	var log bytes.Buffer
	cfg := config(newClock())
	cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	k, err := kms.New(cfg, hsmtest.Root(t), store)
	ok(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Follow(ctx) }()
	for range 3 {
		<-store.tries
	}
	cancel()
	<-done
	if n := strings.Count(log.String(), "no instance is left"); n != 1 {
		t.Errorf("logged %d times: %s", n, &log)
	}
}

// A neverWatched store has a watch that cannot begin.
type neverWatched struct {
	keystore.Store
	tries chan struct{}
}

func (s *neverWatched) Watch(ctx context.Context, _ func(string)) error {
	select {
	case s.tries <- struct{}{}:
	case <-ctx.Done():
	}
	return fmt.Errorf("%w: no instance is left", keystore.ErrUnavailable)
}
