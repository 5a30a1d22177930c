package kms

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore"
)

// A recordCache holds verified records by name. Reads take no lock.
type recordCache struct {
	entries sync.Map // string -> *cached
	size    atomic.Int64
	lost    atomic.Uint64 // marks that were evicted
}

// A cached is immutable: what is learnt of it makes another in its place, so that
// whoever read the store before finds that he was overtaken.
type cached struct {
	rec     *record // nil: the record was removed or replaced by this node
	last    *record // rec, or, if it was replaced, what it was before; nil if it was removed
	rev     keystore.Revision
	checked int64 // when the store last confirmed it, in nanoseconds since 1970; 0: it may have changed since
	// watch is the one that was alive when the store was asked, and has not told of
	// a change meanwhile; 0: none.
	watch uint64
}

func (c *recordCache) get(name string) *cached {
	if v, ok := c.entries.Load(name); ok {
		return v.(*cached)
	}
	return nil
}

// swap puts next in the place of old and reports false, having done nothing, if
// another entry is there by now, or none.
func (c *recordCache) swap(name string, old, next *cached) bool {
	return c.entries.CompareAndSwap(name, old, next)
}

// add puts next where there is no entry, and reports false if there is one, or if any
// mark was evicted since lost: it may have been one of this name, left while the store
// was asked for next.
func (c *recordCache) add(name string, next *cached, lost uint64, limit int) bool {
	place := new(cached) // a mark, too: what forgets the record from now on takes its place
	if _, loaded := c.entries.LoadOrStore(name, place); loaded {
		return false
	}
	c.size.Add(1)
	added := c.lost.Load() == lost && c.entries.CompareAndSwap(name, place, next)
	c.shrink(name, limit)
	return added
}

// forget leaves a mark in the place of the record, so that a fetch that began
// before does not put the old one back. The mark is the first to be evicted; fetches
// that are under way see lost.
func (c *recordCache) forget(name string, limit int) { c.mark(name, nil, limit) }

// outdate is forget for a record that was replaced: its branch key and its
// budget stay good.
func (c *recordCache) outdate(name string, last *record, limit int) { c.mark(name, last, limit) }

func (c *recordCache) mark(name string, last *record, limit int) {
	if _, loaded := c.entries.Swap(name, &cached{last: last}); !loaded { // it was evicted meanwhile
		c.size.Add(1)
		c.shrink(name, limit)
	}
}

// shrink evicts until there are at most limit entries, but not that of except. What
// was changed while it was looked at stays, and another goes in its place.
func (c *recordCache) shrink(except string, limit int) {
	for range evictSample {
		if c.size.Load() <= int64(limit) {
			return
		}
		c.evict(except)
	}
}

// evictSample is how many entries are looked at to find one to evict: the
// longest unconfirmed of a random few is near enough to the longest of all.
const evictSample = 8

func (c *recordCache) evict(except string) {
	var victim string
	var oldest *cached
	n := 0
	c.entries.Range(func(key, value any) bool {
		name, e := key.(string), value.(*cached)
		if name != except && (oldest == nil || e.checked < oldest.checked) {
			victim, oldest = name, e
		}
		n++
		return n < evictSample
	})
	if oldest == nil {
		return
	}
	if oldest.rec == nil {
		c.lost.Add(1) // first, so that whoever finds no mark finds this
	}
	if c.entries.CompareAndDelete(victim, oldest) {
		c.size.Add(-1)
	}
}

// lookup returns the record of a name, from memory if the store confirmed it
// less than RecordTTL ago, or less than WatchedTTL ago and a watch has told of no
// change since.
func (k *KMS) lookup(ctx context.Context, name string) (*record, error) {
	if c := k.records.get(name); c != nil && c.rec != nil && k.fresh(c) {
		k.stats.recordHits.Add(1)
		return c.rec, nil
	}
	if !keystore.ValidName(name) {
		return nil, ErrName
	}
	k.stats.recordMisses.Add(1)
	return k.fetch(ctx, name)
}

// age is for how long the store has not confirmed c. If the clock was set back since,
// that is not known, and is for ever.
func (k *KMS) age(c *cached) time.Duration {
	if age := k.cfg.Now().UnixNano() - c.checked; age >= 0 {
		return time.Duration(age)
	}
	return math.MaxInt64
}

// fresh reports whether c may be used without asking the store.
func (k *KMS) fresh(c *cached) bool {
	age := k.age(c)
	return age < k.cfg.RecordTTL || age < k.cfg.WatchedTTL && k.follow.covers(c)
}

// fetch asks the store, once however many callers wait for the same name, and
// each waits only as long as its own context allows.
func (k *KMS) fetch(ctx context.Context, name string) (*record, error) {
	r, err := share(ctx, k, name, "the key store", func(ctx context.Context) (*record, error) {
		r, _, err := k.read(ctx, name)
		return r, err
	})
	if err != nil && ctx.Err() == nil {
		return k.offline(name, err)
	}
	return r, err
}

// offline returns a record that the store confirmed less than Offline ago, if
// all that is wrong is that the store or the root cannot answer.
func (k *KMS) offline(name string, err error) (*record, error) {
	c := k.records.get(name)
	if errors.Is(err, ErrUnavailable) && c != nil && c.rec != nil && k.age(c) < k.cfg.Offline {
		k.stats.recordsOffline.Add(1)
		return c.rec, nil
	}
	return nil, err
}

// read gets a record from the store, verifies it unless it is the one that was
// verified before, and caches it. Other than fetch it sees every change that was
// made before it was called.
func (k *KMS) read(ctx context.Context, name string) (*record, keystore.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.StoreTimeout)
	defer cancel()
	for {
		old, asked := k.records.get(name), k.ask()
		raw, rev, err := k.store.Get(ctx, name)
		if err != nil {
			return nil, "", k.readError(ctx, name, old, storeError(err))
		}
		if old != nil && old.rec != nil && old.rev == rev {
			if k.keepRecord(name, old, old.rec, rev, asked) {
				return old.rec, rev, nil
			}
			continue
		}
		r, err := k.open(ctx, name, raw)
		if err == nil {
			err = k.follows(old, r)
		}
		if err != nil {
			return nil, "", k.readError(ctx, name, old, err)
		}
		k.adopt(old, r)
		// Another fetch or a change, by this node or told by the watch, came
		// between: look again, so that an old record never takes the place of a
		// newer one.
		if k.keepRecord(name, old, r, rev, asked) {
			return r, rev, nil
		}
	}
}

// A question is what is known before the store is asked for a record.
type question struct {
	at    int64  // in nanoseconds since 1970
	watch uint64 // the one that is alive, 0: none
	told  uint64 // how many changes were told so far
	lost  uint64 // how many marks were evicted so far
}

func (k *KMS) ask() question {
	// The count before the watch: a change that is told between the two is one of
	// the watch that is seen, or comes before it.
	told := k.follow.told.Load()
	return question{k.cfg.Now().UnixNano(), k.follow.alive.Load(), told, k.records.lost.Load()}
}

// keepRecord puts what the store has answered in the place of old, and reports
// false, having done nothing, if another entry is there by now. If any change was
// told meanwhile, it may be one of this record that came before there was an entry
// to mark: then the record is used for RecordTTL only.
func (k *KMS) keepRecord(name string, old *cached, r *record, rev keystore.Revision, asked question) bool {
	c := &cached{rec: r, last: r, rev: rev, checked: asked.at, watch: asked.watch}
	if old == nil && !k.records.add(name, c, asked.lost, k.cfg.MaxRecords) || old != nil && !k.records.swap(name, old, c) {
		return false
	}
	if asked.watch != 0 && k.follow.told.Load() != asked.told {
		unwatched := *c
		unwatched.watch = 0
		k.records.swap(name, c, &unwatched)
	}
	return true
}

// adopt gives r the branch key and the budget of the record that it takes the
// place of, if its newest version is the same, and forgets the branch keys of a
// key that may not be used or is to have none.
func (k *KMS) adopt(old *cached, r *record) {
	r.sealer, r.budget = new(sealer), new(budget)
	if old != nil && old.last != nil && old.last.ID == r.ID && old.last.newest().Number == r.newest().Number {
		r.sealer, r.budget = old.last.sealer, old.last.budget
	}
	if r.usable() != nil || k.mode(r) == envelope.Direct {
		k.forgetBranches(r)
		r.sealer = new(sealer)
	}
	if old != nil && old.last != nil && old.last.ID != r.ID {
		k.forgetBranches(old.last)
	}
}

// replace stores a changed record in the place of revision rev. It returns
// keystore.ErrConflict, as it is, if another writer was first. After any other
// error the change may or may not have been stored, and the next use will ask.
func (k *KMS) replace(ctx context.Context, next *record, rev keystore.Revision) error {
	before := *next
	next.Generation++
	raw, err := k.seal(ctx, next)
	if err != nil {
		return err
	}
	storeCtx, cancel := context.WithTimeout(ctx, k.cfg.StoreTimeout)
	defer cancel()
	err = k.store.Update(storeCtx, next.Name, raw, rev)
	k.records.outdate(next.Name, &before, k.cfg.MaxRecords)
	if errors.Is(err, keystore.ErrNotFound) {
		return k.readError(ctx, next.Name, k.records.get(next.Name), storeError(err))
	}
	if err != nil {
		return storeError(err)
	}
	if err := k.readBack(ctx, next, raw); err != nil {
		return unavailable("read back", err)
	}
	return nil
}

// readBack caches next as the store now has it. If that is what was sealed just
// now, bit for bit, the root need not be asked again whether it is authentic.
func (k *KMS) readBack(ctx context.Context, next *record, sealed []byte) error {
	storeCtx, cancel := context.WithTimeout(ctx, k.cfg.StoreTimeout)
	defer cancel()
	old, asked := k.records.get(next.Name), k.ask()
	raw, rev, err := k.store.Get(storeCtx, next.Name)
	if err == nil && bytes.Equal(raw, sealed) {
		k.adopt(old, next)
		if k.keepRecord(next.Name, old, next, rev, asked) {
			return nil
		}
	}
	_, _, err = k.read(ctx, next.Name)
	return err
}
