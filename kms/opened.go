package kms

import (
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/keygate/keygate/envelope"
)

// openedShards is a power of two. A shard is copied when it changes, so it is
// kept small: at the default limit it has ten entries.
const openedShards = 1024

// An openedCache holds branch keys by their wrapped form. Reads take no lock and
// copy nothing.
type openedCache struct {
	seed   maphash.Seed
	shards [openedShards]openedShard
	count  atomic.Int64 // of entries in all shards
	// epoch is raised by each purge: what was asked of the root before is not
	// kept after.
	epoch atomic.Uint64
}

type openedShard struct {
	mu      sync.Mutex
	entries atomic.Pointer[map[string]*branch] // never changed once it is here
}

func (c *openedCache) index(wrapped []byte) uint64 {
	return maphash.Bytes(c.seed, wrapped) % openedShards
}

func (c *openedCache) shard(wrapped []byte) *openedShard { return &c.shards[c.index(wrapped)] }

// load returns the entries, which may be nil and are not to be changed.
func (s *openedShard) load() map[string]*branch {
	if entries := s.entries.Load(); entries != nil {
		return *entries
	}
	return nil
}

// get returns the branch key, maybe past its life, or nil. A wrapped key under
// another header is another key.
func (c *openedCache) get(h envelope.Header, wrapped []byte) *branch {
	if b := c.shard(wrapped).load()[string(wrapped)]; b != nil && b.header == h {
		return b
	}
	return nil
}

// put keeps b for life, unless there was a purge since epoch. At most limit are
// kept.
func (c *openedCache) put(b *branch, epoch uint64, limit int, life time.Duration) {
	b.used.Store(b.born)
	i := c.index(b.wrapped)
	c.change(&c.shards[i], func(entries map[string]*branch) {
		if c.epoch.Load() != epoch {
			return
		}
		// The runtime lets go of a timer that was stopped when it likes to.
		gone := weak.Make(b)
		b.opened = time.AfterFunc(life, func() {
			if b := gone.Value(); b != nil {
				c.remove(b)
			}
		})
		entries[string(b.wrapped)] = b
	})
	for c.count.Load() > int64(limit) {
		victim := c.leastUsed(i, b)
		if victim == nil {
			return
		}
		c.remove(victim)
	}
}

// leastUsed returns, of a few in shard i and those after it, the one that was not
// used for longest, other than except; nil if there is no other.
func (c *openedCache) leastUsed(i uint64, except *branch) (least *branch) {
	seen := 0
	for n := range uint64(openedShards) {
		for _, b := range c.shards[(i+n)%openedShards].load() {
			if b == except {
				continue
			}
			seen++
			if least == nil || b.used.Load() < least.used.Load() {
				least = b
			}
		}
		if seen >= evictSample {
			break
		}
	}
	return least
}

// purge forgets all branch keys of a key.
func (c *openedCache) purge(id KeyID) {
	c.epoch.Add(1)
	for i := range c.shards {
		c.drop(&c.shards[i], func(b *branch) bool { return b.header.KeyID == id })
	}
}

// remove forgets one branch key.
func (c *openedCache) remove(b *branch) {
	c.drop(c.shard(b.wrapped), func(other *branch) bool { return other == b })
}

// drop takes the lock also where there seems to be nothing: a put that has looked
// at the epoch may be about to store.
func (c *openedCache) drop(s *openedShard, gone func(*branch) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.load() {
		if gone(b) {
			next := maps.Clone(s.load())
			maps.DeleteFunc(next, func(_ string, b *branch) bool { return gone(b) })
			c.store(s, next)
			return
		}
	}
}

// change puts a changed copy in the place of the shard's entries.
func (c *openedCache) change(s *openedShard, edit func(map[string]*branch)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.load()
	next := make(map[string]*branch, len(old)+1)
	maps.Copy(next, old)
	edit(next)
	c.store(s, next)
}

// store puts next in the place of the shard's entries, and lets go of those that are
// not in it. The shard is locked.
func (c *openedCache) store(s *openedShard, next map[string]*branch) {
	old := s.load()
	s.entries.Store(&next)
	c.count.Add(int64(len(next) - len(old)))
	for wrapped, b := range old {
		if next[wrapped] != b {
			b.opened.Stop() // it would hold b for the rest of its life
		}
	}
}

func (c *openedCache) size() int { return int(c.count.Load()) }
