package kms

import (
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/envelope"
)

// openedShards is a power of two. A shard is copied when it changes, so it is
// kept small.
const openedShards = 64

// An openedCache holds branch keys by their wrapped form. Reads take no lock and
// copy nothing.
type openedCache struct {
	seed   maphash.Seed
	shards [openedShards]openedShard
	// epoch is raised by each purge: what was asked of the root before is not
	// kept after.
	epoch atomic.Uint64
}

type openedShard struct {
	mu      sync.Mutex
	entries atomic.Pointer[map[string]*branch] // never changed once it is here
}

func (c *openedCache) shard(wrapped []byte) *openedShard {
	return &c.shards[maphash.Bytes(c.seed, wrapped)%openedShards]
}

// get returns the branch key, maybe past its life, or nil. A wrapped key under
// another header is another key.
func (c *openedCache) get(h envelope.Header, wrapped []byte) *branch {
	entries := c.shard(wrapped).entries.Load()
	if entries == nil {
		return nil
	}
	if b := (*entries)[string(wrapped)]; b != nil && b.header == h {
		return b
	}
	return nil
}

// put keeps b for life, unless there was a purge since epoch. At most limit are
// kept; those that were not used for longest go first, of their shard.
func (c *openedCache) put(b *branch, epoch uint64, limit int, life time.Duration) {
	b.used.Store(b.born)
	s := c.shard(b.wrapped)
	s.change(func(entries map[string]*branch) {
		if c.epoch.Load() != epoch {
			return
		}
		b.opened = time.AfterFunc(life, func() { c.remove(b) })
		entries[string(b.wrapped)] = b
		for len(entries) > max(1, limit/openedShards) {
			delete(entries, leastUsed(entries, b))
		}
	})
}

// leastUsed returns the one that was not used for longest, other than except.
func leastUsed(entries map[string]*branch, except *branch) (wrapped string) {
	var least int64
	for w, b := range entries {
		if used := b.used.Load(); b != except && (wrapped == "" || used < least) {
			wrapped, least = w, used
		}
	}
	return wrapped
}

// purge forgets all branch keys of a key.
func (c *openedCache) purge(id KeyID) {
	c.epoch.Add(1)
	for i := range c.shards {
		c.shards[i].drop(func(b *branch) bool { return b.header.KeyID == id })
	}
}

// remove forgets one branch key.
func (c *openedCache) remove(b *branch) {
	c.shard(b.wrapped).drop(func(other *branch) bool { return other == b })
}

// drop takes the lock also where there seems to be nothing: a put that has looked
// at the epoch may be about to store.
func (s *openedShard) drop(gone func(*branch) bool) {
	s.change(func(entries map[string]*branch) {
		maps.DeleteFunc(entries, func(_ string, b *branch) bool { return gone(b) })
	})
}

// change puts a changed copy in the place of the shard's entries, and lets go of
// those that are not in it.
func (s *openedShard) change(edit func(map[string]*branch)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var old map[string]*branch
	if entries := s.entries.Load(); entries != nil {
		old = *entries
	}
	next := make(map[string]*branch, len(old)+1)
	maps.Copy(next, old)
	edit(next)
	if len(old) == 0 && len(next) == 0 {
		return
	}
	s.entries.Store(&next)
	for wrapped, b := range old {
		if next[wrapped] != b {
			b.opened.Stop() // it would hold b for the rest of its life
		}
	}
}

func (c *openedCache) size() (n int) {
	for i := range c.shards {
		if entries := c.shards[i].entries.Load(); entries != nil {
			n += len(*entries)
		}
	}
	return n
}
