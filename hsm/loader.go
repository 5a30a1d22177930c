package hsm

import (
	"context"
	"fmt"
	"sync"

	"github.com/miekg/pkcs11"
)

// maxLoaders is how many sessions load keys at a time. A network HSM takes tens
// of milliseconds for a key: one after the other, a gateway that starts with
// 1,000 keys in use would load for most of a minute.
const maxLoaders = 16

// A loader is a session that owns the keys that it loaded, since session objects
// end with their session. The first one is the anchor of the link.
type loader struct {
	mu      sync.Mutex // held by the call that uses the session
	session session    // of the zero value until it is first needed
}

// onLoader runs fn with a session that keeps what fn loads. If that fails and
// the session then fails a load that must succeed, the link is broken: keys in
// use belong to the session.
func (l *link) onLoader(ctx context.Context, fn func(session) error) error {
	if err := l.enter(ctx); err != nil {
		return err
	}
	defer l.leave()
	free := l.takeLoader()
	if free == nil {
		l.broken.Store(true)
		return errHung
	}
	defer free.mu.Unlock()
	if err := l.openLoader(free); err != nil {
		return err
	}
	err := fn(free.session)
	if _, faulty := classOf(err); faulty && free.session.canary() != nil {
		l.broken.Store(true)
	}
	return err
}

// takeLoader returns a loader that no call uses, locked, or nil: the keeper has
// no more workers than there are loaders, those included that take the place of
// others that hang, so that more hang than may.
func (l *link) takeLoader() *loader {
	for i := range l.loaders {
		if l.loaders[i].mu.TryLock() {
			return &l.loaders[i]
		}
	}
	return nil
}

// openLoader opens a loader that was not used before.
func (l *link) openLoader(free *loader) (err error) {
	l.mu.Lock()
	retired := l.retired
	l.mu.Unlock()
	switch {
	case free.session.link != nil:
		return nil
	case retired || free == &l.loaders[0]:
		return errStale // the link was retired meanwhile
	}
	free.session, err = l.open(0)
	return err
}

func (o *loader) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.session.close()
}

// isNew returns an error if an object that was just made has the number of a
// key that is loaded. Then the session that owned that key has ended, and what
// is encrypted with it from now on would be under another key: it could not be
// opened again.
func (l *link) isNew(object pkcs11.ObjectHandle) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.objects[object] == nil {
		return nil
	}
	l.broken.Store(true)
	return fmt.Errorf("hsm: the token has given the number of a loaded key to another object: %w", errStale)
}
