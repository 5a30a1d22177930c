package hsm

import (
	"container/list"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
	"golang.org/x/sync/singleflight"
)

// A link is one life of the connection to the token: a login, and the handles
// that hold as long as it does. After a fault another link is made, with
// nothing of the old one, since handles of the old one may name other objects
// by then.
type link struct {
	module      *module
	log         *slog.Logger // nil where a command, and no root, uses the token
	gen         uint64       // the module's initialisation that all handles belong to
	slot        uint
	token       TokenInfo
	flags       uint          // of all sessions
	keeps       bool          // residency: token
	copyable    bool          // the operator allows root keys that are or were copyable
	extractable bool          // one of them is
	accept      []string      // the rules that the operator said may be broken
	broke       []string      // those that are, with what that means
	limit       int           // of loaded keys
	life        time.Duration // of sessions for calls
	wait        time.Duration // that one call waits for another, at most
	timeout     time.Duration // that a call may take

	// The anchor keeps the login while other sessions come and go. It is the
	// first loader, once the link is made; the others are opened when keys are
	// loaded at the same time.
	anchor  session
	loaders []loader

	kek       pkcs11.ObjectHandle // the present one, of keks
	kekID     kekID
	keks      []*kek         // that handles may name
	wrap      wrapMechanisms // found under mu, the rest set before the link is used
	recordKey *loaded
	probe     *loaded // a key made for this link that tells a fault from a bad input
	refusals  refusals
	sessions  atomic.Int64
	plan      *Plan // if not nil, gets the token objects that would be made, and none is
	broken    atomic.Bool
	loads     singleflight.Group

	mu      sync.Mutex
	keys    map[string]*loaded // by the bytes of the handle
	objects map[pkcs11.ObjectHandle]*loaded
	recent  list.List // of the keys, the one used last in front
	doomed  []pkcs11.ObjectHandle
	users   int
	retired bool
}

// usable reports whether new calls may use l.
func (l *link) usable() bool {
	return l != nil && !l.broken.Load() && l.module.generation() == l.gen
}

// enter says that a call in the module begins; leave must follow. It fails if
// the handles of l are stale.
func (l *link) enter(ctx context.Context) error { return l.module.enter(ctx, l.gen) }

func (l *link) leave() { l.module.leave() }

// retire lets l go when its last user has.
func (l *link) retire() {
	l.broken.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retired = true
	if l.users == 0 {
		go l.close()
	}
}

// close closes the sessions that load keys and with them, if they are the last,
// the login. It is called when nobody uses l, and not by a worker that calls
// wait for: it may hang.
func (l *link) close() {
	l.mu.Lock()
	l.retired = true // no loader is opened after this
	l.mu.Unlock()
	for i := range l.loaders {
		l.loaders[i].close()
	}
}
