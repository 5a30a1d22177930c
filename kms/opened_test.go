package kms

import (
	"encoding/binary"
	"hash/maphash"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/keygate/keygate/envelope"
)

func branchNumber(i int) *branch {
	return &branch{header: envelope.Header{KeyID: KeyID{1}}, wrapped: binary.BigEndian.AppendUint64(nil, uint64(i))}
}

// alive returns how many of some branch keys the garbage collector has to leave.
func alive(branches []weak.Pointer[branch]) (n int) {
	for range 3 {
		runtime.GC()
	}
	for _, b := range branches {
		if b.Value() != nil {
			n++
		}
	}
	return n
}

// TestNoTimerHoldsABranchKeyThatWasEvicted: who may decrypt can have any number
// of branch keys opened, so that what bounds them must bound memory.
func TestNoTimerHoldsABranchKeyThatWasEvicted(t *testing.T) {
	const limit, all = 128, 6400
	c := &openedCache{seed: maphash.MakeSeed()}
	var branches []weak.Pointer[branch]
	for i := range all {
		b := branchNumber(i)
		branches = append(branches, weak.Make(b))
		c.put(b, 0, limit, time.Hour)
	}
	if n := alive(branches); n > limit || n == 0 {
		t.Errorf("%d branch keys of %d are in memory, with room for %d", n, all, limit)
	}
	c.purge(KeyID{1})
	if n := alive(branches); n != 0 || c.size() != 0 {
		t.Errorf("%d branch keys are in memory after a purge, %d in the cache", n, c.size())
	}
	late := branchNumber(all)
	branches = append(branches[:0], weak.Make(late))
	c.put(late, 0, limit, time.Hour)
	late = nil
	if n := alive(branches); n != 0 {
		t.Error("a branch key of before the purge is in memory")
	}
	runtime.KeepAlive(c)
}

func TestNoTimerHoldsABranchKeyThatWasReplaced(t *testing.T) {
	s := new(sealer)
	var branches []weak.Pointer[branch]
	for i := range 100 {
		b := branchNumber(i)
		branches = append(branches, weak.Make(b))
		s.use(b, time.Hour)
	}
	if n := alive(branches); n != 1 {
		t.Errorf("%d branch keys are in memory, not 1", n)
	}
	s.forget()
	s.forget()
	if n := alive(branches); n != 0 {
		t.Errorf("%d branch keys are in memory after all were forgotten", n)
	}
	runtime.KeepAlive(s)
}

func TestABranchKeyIsForgottenAtTheEndOfItsLife(t *testing.T) {
	c, s := &openedCache{seed: maphash.MakeSeed()}, new(sealer)
	one, two := branchNumber(1), branchNumber(2)
	c.put(one, 0, openedShards, 50*time.Millisecond)
	s.use(two, 50*time.Millisecond)
	if c.get(one.header, one.wrapped) != one || s.current.Load() != two {
		t.Fatal("they are not there")
	}
	for deadline := time.Now().Add(10 * time.Second); c.size() != 0 || s.current.Load() != nil; {
		if time.Now().After(deadline) {
			t.Fatal("they are there after their lives")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestAPurgeSeesWhatIsBeingPut has a purge come when a put has looked at the epoch
// and has not stored yet.
func TestAPurgeSeesWhatIsBeingPut(t *testing.T) {
	c, b := &openedCache{seed: maphash.MakeSeed()}, branchNumber(1)
	b.opened = time.NewTimer(time.Hour)
	looked, stored := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stored)
		c.change(c.shard(b.wrapped), func(entries map[string]*branch) {
			close(looked)
			time.Sleep(50 * time.Millisecond)
			entries[string(b.wrapped)] = b
		})
	}()
	<-looked
	c.purge(KeyID{1})
	<-stored
	if n := c.size(); n != 0 {
		t.Errorf("%d branch keys after a purge", n)
	}
}

// TestNoMoreBranchKeysThanTheLimit, and as many, wherever they happen to be.
func TestNoMoreBranchKeysThanTheLimit(t *testing.T) {
	for _, limit := range []int{1, 2, 100, 3000} {
		c := &openedCache{seed: maphash.MakeSeed()}
		for i := range 2*limit + 100 {
			b := branchNumber(i)
			c.put(b, 0, limit, time.Hour)
			if want := min(i+1, limit); c.size() != want {
				t.Fatalf("limit %d: %d after %d", limit, c.size(), i+1)
			}
			if c.get(b.header, b.wrapped) != b {
				t.Fatalf("limit %d: number %d is not there", limit, i)
			}
		}
		n := 0
		for i := range c.shards {
			n += len(c.shards[i].load())
		}
		if n != limit {
			t.Errorf("limit %d: there are %d, and %d are counted", limit, n, c.size())
		}
	}
}

// TestABranchKeyInUseStays while others that were used once come and go.
func TestABranchKeyInUseStays(t *testing.T) {
	c := &openedCache{seed: maphash.MakeSeed()}
	hot := branchNumber(0)
	c.put(hot, 0, 100, time.Hour)
	hot.touch(int64(time.Hour))
	for i := range 5000 {
		c.put(branchNumber(i+1), 0, 100, time.Hour)
	}
	if c.get(hot.header, hot.wrapped) != hot {
		t.Error("it was evicted")
	}
}

// full returns a cache that is full, as one is by default.
func full() *openedCache {
	c := &openedCache{seed: maphash.MakeSeed()}
	for i := range DefaultMaxOpened + 1000 {
		c.put(branchNumber(i), 0, DefaultMaxOpened, time.Hour)
	}
	return c
}

func BenchmarkOpenedPut(b *testing.B) {
	c := full()
	for i := 0; b.Loop(); i++ {
		c.put(branchNumber(1_000_000+i), 0, DefaultMaxOpened, time.Hour)
	}
}

func BenchmarkOpenedPurge(b *testing.B) {
	c := full()
	for b.Loop() {
		c.purge(KeyID{2})
	}
}
