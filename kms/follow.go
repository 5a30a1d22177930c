package kms

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/keystore"
)

// follow is what a KMS knows of the watch of its store.
//
// The age of a record in memory is counted from before the store was asked for it.
// While the same watch is alive that was alive then, and has told of no change, the
// store holds the same record; when that watch ends, which a store that cannot tell
// of changes must have it do within keystore.WatchBound, the record is good for
// RecordTTL from its check, as without a watch. So a change holds here after
// RecordTTL, or keystore.WatchBound if that is longer, whatever fails.
type follow struct {
	alive atomic.Uint64 // number of the watch that hears of every change; 0: none
	told  atomic.Uint64 // raised with each change that is told, before the record is marked
	last  uint64        // the number of the last watch; of the goroutine that follows
	beat  atomic.Int64  // when this process was last known to run, in nanoseconds since epoch
	epoch time.Time     // what beats are counted from, by the monotonic clock
}

// A process that stood still, as one in a virtual machine that is moved, does not
// know for how long its watch has told it nothing, and may serve a request before
// any timer has fired. So it notes every beat that it runs, and after standstill
// without one the watch is over.
const (
	beat       = 250 * time.Millisecond
	standstill = 2 * time.Second
)

func (f *follow) note()       { f.beat.Store(int64(time.Since(f.epoch))) }
func (f *follow) awake() bool { return int64(time.Since(f.epoch))-f.beat.Load() < int64(standstill) }

// covers reports whether the watch that was alive when c was checked has told of all
// changes since.
func (f *follow) covers(c *cached) bool {
	return c.watch != 0 && c.watch == f.alive.Load() && f.awake()
}

// beats notes that the process runs until ctx ends. If it did not, it ends the watch.
func (f *follow) beats(ctx context.Context, end func()) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !f.awake() {
			end()
			return
		}
		f.note()
	}
}

// How soon a watch is begun again after it has ended.
const (
	firstRewatch = 50 * time.Millisecond
	maxRewatch   = 2 * time.Second
)

// maxRefresh is how many names that have changed wait to be read again; more are
// read when they are next used.
const maxRefresh = 1024

// Follow has the KMS learn of changes by other nodes from the store, until ctx
// ends: a record that was changed is read again at once, and others are used for
// Config.WatchedTTL without asking. It returns at once if the store cannot be
// watched. It is to be called once, and may be left out: then records are used for
// Config.RecordTTL.
func (k *KMS) Follow(ctx context.Context) {
	refresh := make(chan string, maxRefresh)
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.refresh(ctx, refresh)
	}()
	defer func() { <-done }()
	defer close(refresh)
	first := true
	for pause := firstRewatch; ctx.Err() == nil; pause = min(2*pause, maxRewatch) {
		lived, err := k.watch(ctx, refresh)
		if errors.Is(err, keystore.ErrNoWatch) {
			return
		}
		if lived {
			pause = firstRewatch
		} else if first && ctx.Err() == nil {
			k.cfg.Logger.Warn("kms: the key store does not tell of changes; records are read again after their lifetime until it does", "lifetime", k.cfg.RecordTTL, "error", err)
		}
		first = false
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// watch watches the store once. lived says that it has told of changes.
func (k *KMS) watch(ctx context.Context, refresh chan<- string) (lived bool, err error) {
	defer k.follow.alive.Store(0) // before all else, also in a panic
	defer recovered(&err)
	watching, end := context.WithCancel(ctx)
	defer end()
	k.follow.note()
	go k.follow.beats(watching, end)
	err = k.store.Watch(watching, func(name string) { k.changed(name, refresh) })
	lived = k.follow.alive.Swap(0) != 0
	if lived && ctx.Err() == nil {
		k.stats.watchesLost.Add(1)
		k.cfg.Logger.Warn("kms: the key store no longer tells of changes; records are read again after their lifetime until it does", "lifetime", k.cfg.RecordTTL, "error", err)
	}
	return lived, err
}

// changed is told by the store that a record may have changed; "" is that any may
// have.
func (k *KMS) changed(name string, refresh chan<- string) {
	k.follow.told.Add(1)
	if name == "" {
		k.follow.last++
		k.follow.alive.Store(k.follow.last)
		return
	}
	k.stats.changes.Add(1)
	if !k.records.doubt(name) {
		return
	}
	select {
	case refresh <- name:
	default:
	}
}

// doubt marks the record of a name as one that may have changed, so that its next
// use asks the store. It reports whether there is one in memory.
func (c *recordCache) doubt(name string) bool {
	for {
		old := c.get(name)
		if old == nil || old.rec == nil {
			// Nothing is used from memory. A fetch that is under way sees told.
			return false
		}
		next := *old
		next.checked, next.watch = 0, 0
		if c.swap(name, old, &next) {
			return true
		}
	}
}

// refresh reads the records again whose change was told, so that a key that was
// disabled or deleted loses its branch keys also where nobody uses it. What cannot
// be read stays marked.
func (k *KMS) refresh(ctx context.Context, names <-chan string) {
	for name := range names {
		if ctx.Err() != nil {
			continue
		}
		_, err := share(ctx, k, name, "the key store", func(ctx context.Context) (*record, error) {
			r, _, err := k.read(ctx, name)
			return r, err
		})
		if err != nil && ctx.Err() == nil {
			k.cfg.Logger.Debug("kms: a record that has changed could not be read again; its next use will", "key", name, "error", err)
		}
	}
}
