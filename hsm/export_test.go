package hsm

import (
	"context"
	"errors"

	"github.com/miekg/pkcs11"
)

// Calls are the calls of the module, for test vectors, on a session of its own.
type Calls struct {
	*pkcs11.Ctx
	Session pkcs11.SessionHandle
	link    *link
}

// Slot is the slot of the token.
func (c Calls) Slot() uint { return c.link.slot }

// GCM is the pair of calls of our own in cryptoki.c.
func (c Calls) GCM(encrypt bool, key pkcs11.ObjectHandle, iv, additionalData, in, out []byte) (int, error) {
	return c.link.module.gcm(encrypt, c.Session, key, iv, additionalData, in, out)
}

// OnSession runs fn with a session that is closed after it.
func (r *Root) OnSession(ctx context.Context, fn func(Calls)) error {
	t := r.group.members[0].get().(*token)
	l, err := t.connected(ctx)
	if err != nil {
		return err
	}
	if err := l.enter(ctx); err != nil {
		return err
	}
	defer l.leave()
	s, err := l.open(0)
	if err != nil {
		return err
	}
	fn(Calls{l.module.raw, s.handle, l})
	s.abandon()
	return nil
}

// inModule runs fn with calls of the library at path.
func inModule(ctx context.Context, path string, fn func(*module) error) error {
	m, err := useModule(ctx, path, "", false)
	if err != nil {
		return err
	}
	err = m.within(ctx, func() error { return fn(m) })
	return errors.Join(err, m.release(DefaultTimeout))
}

// Trip puts a token of the root out of use, and Mend puts it to use, as its breaker does.
func (r *Root) Trip(i int) { r.group.members[i].trip(errStalled) }

// Mend is the other half of Trip.
func (r *Root) Mend(i int) { r.group.members[i].mend() }

// InitSecondToken makes a token also if there is one of the label, as other
// tools do.
func InitSecondToken(ctx context.Context, path, label, officerPIN, userPIN string) error {
	return inModule(ctx, path, func(m *module) error {
		slot, _, err := m.slotFor("a label that no token has")
		if err != nil {
			return err
		}
		return m.makeToken(slot, false, label, officerPIN, userPIN)
	})
}

// Jittered is for TestLifetimesDiffer.
var Jittered = jittered

// ClassOf names the class of a code that a function answers.
func ClassOf(function string, code uint) string {
	return [...]string{
		tokenFault: "token", sessionFault: "session", objectFault: "object", loginFault: "login", moduleFault: "module",
		pinFault: "PIN", requestFault: "request", inputFault: "input", unclearFault: "unclear",
	}[(&Error{Function: function, Code: code}).class()]
}

// Serials returns the serial numbers of the tokens of a label.
func Serials(ctx context.Context, path, label string) (all []string, err error) {
	err = inModule(ctx, path, func(m *module) error {
		tokens, err := m.tokens()
		for _, t := range tokens {
			if t.info.Label == label {
				all = append(all, t.info.SerialNumber)
			}
		}
		return err
	})
	return all, err
}

// SlotOf returns the slot of the token of a label.
func SlotOf(ctx context.Context, path, label string) (slot uint, err error) {
	err = inModule(ctx, path, func(m *module) error {
		tokens, err := m.tokens()
		for _, t := range tokens {
			if t.info.Label == label {
				slot = t.slot
			}
		}
		return err
	})
	return slot, err
}

// ConfuseKeys has a loaded key's handle name another loaded key's object, and returns
// what says whether the connection goes on.
func (r *Root) ConfuseKeys(key, other []byte) (goesOn func() bool) {
	l := r.group.members[0].get().(*token).link.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.module.objects.reused.Store(true)
	l.keys[string(key)].object = l.keys[string(other)].object
	return func() bool {
		l.module.objects.reused.Store(false)
		return l.usable()
	}
}
