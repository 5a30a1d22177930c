package hsm

import (
	"context"

	"github.com/miekg/pkcs11"
)

// Calls are the calls of the module, for test vectors, on a session of its own.
type Calls struct {
	*pkcs11.Ctx
	Session pkcs11.SessionHandle
	link    *link
}

// GCM is the pair of calls of our own in cryptoki.c.
func (c Calls) GCM(encrypt bool, key pkcs11.ObjectHandle, iv, additionalData, in, out []byte) (int, error) {
	return c.link.module.gcm(encrypt, c.Session, key, iv, additionalData, in, out)
}

// OnSession runs fn with a session that is closed after it.
func (r *Root) OnSession(ctx context.Context, fn func(Calls)) error {
	l, err := r.connected(ctx)
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
	fn(Calls{l.module.ctx, s.handle, l})
	s.abandon()
	return nil
}
