package hsm

import (
	"container/list"
	"context"
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// A loaded key is an object in the token that can be used now.
type loaded struct {
	link   *link
	object pkcs11.ObjectHandle
	handle keyHandle     // the zero value for the record key
	seen   atomic.Uint64 // the count of objects made when it was last seen to be the key; see session.sure

	// Under link.mu:
	uses    int
	evicted bool          // destroy it after its last use
	place   *list.Element // in link.recent; nil for the keys of the link itself
}

// use says that a call is going to use k, which is not destroyed before done.
// It reports false if the link is over.
func (k *loaded) use() bool {
	k.link.mu.Lock()
	defer k.link.mu.Unlock()
	return k.useLocked()
}

func (k *loaded) useLocked() bool {
	if k.link.retired {
		return false
	}
	k.uses++
	k.link.users++
	return true
}

func (k *loaded) done() {
	l := k.link
	l.mu.Lock()
	defer l.mu.Unlock()
	k.uses--
	if k.evicted && k.uses == 0 {
		k.doomLocked()
	}
	if l.users--; l.users == 0 && l.retired {
		go l.close()
	}
}

// cached returns the loaded key of a handle, in use, or nil.
func (l *link) cached(handle []byte) *loaded {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[string(handle)]
	if k == nil || !k.useLocked() {
		return nil
	}
	l.recent.MoveToFront(k.place)
	return k
}

// has reports whether the key of a handle is loaded.
func (l *link) has(handle []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.keys[string(handle)] != nil
}

// keep puts a key that was loaded, and is not there yet, into the cache and
// evicts the one that was not used for longest if there are too many.
func (l *link) keep(handle []byte, k *loaded) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.place = l.recent.PushFront(string(handle))
	l.keys[string(handle)] = k
	l.objects[k.object] = k
	for len(l.keys) > l.limit {
		l.evictLocked(l.keys[l.recent.Back().Value.(string)])
	}
}

// forget takes out a key that the token no longer knows. It is not destroyed:
// its number may be that of another object by then.
func (l *link) forget(k *loaded) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.takeOut(k)
}

// evict takes out a key and has it destroyed when nobody uses it.
func (l *link) evict(k *loaded) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.evictLocked(k)
}

func (l *link) evictLocked(k *loaded) {
	if !l.takeOut(k) {
		return
	}
	k.evicted = true
	if k.uses == 0 {
		k.doomLocked()
	}
}

// doomLocked has the object of k destroyed, unless it is that of the token.
func (k *loaded) doomLocked() {
	if k.handle.wrapping != inToken {
		k.link.doomed = append(k.link.doomed, k.object)
	}
}

// takeOut reports whether k was in the cache.
func (l *link) takeOut(k *loaded) bool {
	if k.place == nil || l.keys[k.place.Value.(string)] != k {
		return false
	}
	delete(l.keys, k.place.Value.(string))
	delete(l.objects, k.object)
	l.recent.Remove(k.place)
	return true
}

// takeDoomed returns the objects that are no longer used, to be destroyed.
func (l *link) takeDoomed() []pkcs11.ObjectHandle {
	l.mu.Lock()
	defer l.mu.Unlock()
	doomed := l.doomed
	l.doomed = nil
	return doomed
}

func (s session) destroyDoomed() {
	for _, object := range s.link.takeDoomed() {
		_ = s.destroy(object) // it may be gone already
	}
}

// load returns the loaded key of a handle, in use. Callers that want the same
// one wait for one load.
func (t *token) load(ctx context.Context, l *link, handle []byte, h keyHandle) (*loaded, error) {
	for {
		if k := l.cached(handle); k != nil {
			return k, nil
		}
		own := append([]byte(nil), handle...)
		result := l.loads.DoChan(string(own), func() (any, error) { return nil, t.loadOnce(l, own, h) })
		select {
		case <-ctx.Done():
			return nil, waited(ctx, "wait for a key")
		case res := <-result:
			if res.Err != nil {
				return nil, res.Err
			}
		}
		if !l.usable() {
			return nil, errStale
		}
	}
}

// loadOnce loads a key on one of the loaders. Its callers share it, so it has a
// deadline of its own.
func (t *token) loadOnce(l *link, handle []byte, h keyHandle) error {
	ctx, cancel := context.WithTimeout(context.Background(), t.cfg.Timeout)
	defer cancel()
	_, err := call(ctx, t.keeper, task[struct{}]{run: func(*worker) (struct{}, error) {
		return struct{}{}, l.onLoader(ctx, func(s session) error {
			s.destroyDoomed()
			if l.has(handle) {
				return nil // a load ended just before this one began
			}
			before, _ := l.module.objects.now()
			object, err := s.load(h)
			if err != nil {
				return err
			}
			k := &loaded{link: l, object: object, handle: h}
			if made, quiet := l.module.objects.now(); quiet && made == before+1 && h.wrapping != inToken {
				k.seen.Store(made) // it was used once, and is the only one that was made
			}
			l.keep(handle, k)
			return nil
		})
	}})
	return err
}
