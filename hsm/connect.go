package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// connect makes a link. If the token fails or is not there it tries once more
// with the module initialised anew, since some modules see only then that a
// token is back; not if the PIN is wrong or the token is refused.
func (r *Root) connect(ctx context.Context) (*link, error) {
	gen := r.module.generation()
	l, err := r.newLink(ctx, gen)
	if err == nil || !worthReset(err) {
		return l, err
	}
	if resetErr := r.module.reinitialize(ctx, gen); resetErr != nil {
		return nil, fmt.Errorf("%w; %w", err, resetErr)
	}
	return r.newLink(ctx, r.module.generation())
}

func worthReset(err error) bool {
	if c, ok := classOf(err); ok {
		return c != requestFault && c != pinFault
	}
	_, missing := errors.AsType[*notFoundError](err)
	return missing || errors.Is(err, errStale)
}

// newLink logs in, finds the root keys and uses them.
func (r *Root) newLink(ctx context.Context, gen uint64) (*link, error) {
	l, err := r.newBareLink(ctx, gen, 0)
	if err != nil {
		return nil, err
	}
	if err := l.enter(ctx); err != nil {
		return nil, err
	}
	defer l.leave()
	err = l.anchor.ready(r.cfg)
	if err == nil {
		err = r.recognize(l.anchor)
	}
	if err != nil {
		l.anchor.abandon()
		return nil, err
	}
	l.loaders = make([]loader, l.token.loaders(r.cfg.Sessions))
	l.loaders[0].session = l.anchor
	return l, nil
}

// recognize compares the token with that of the first link.
func (r *Root) recognize(s session) (err error) {
	r.repair.mu.Lock()
	known := r.repair.known
	r.repair.mu.Unlock()
	if known != nil {
		return s.recognize(*known)
	}
	m, err := s.remember()
	if err != nil {
		return err
	}
	r.repair.mu.Lock()
	defer r.repair.mu.Unlock()
	r.repair.known = &m
	return nil
}

// newBareLink finds the token, opens a session with flags and logs in.
func (r *Root) newBareLink(ctx context.Context, gen uint64, flags uint) (_ *link, err error) {
	l := &link{module: r.module, gen: gen, limit: r.cfg.Keys, keys: make(map[string]*loaded), objects: make(map[pkcs11.ObjectHandle]*loaded)}
	if err := l.enter(ctx); err != nil {
		return nil, err
	}
	defer l.leave()
	if l.slot, l.token, err = findToken(r.module, r.cfg); err != nil {
		return nil, err
	}
	if l.anchor, err = l.open(flags); err != nil {
		return nil, err
	}
	if err := r.login(l.anchor); err != nil {
		l.anchor.abandon()
		return nil, err
	}
	return l, nil
}

// ready finds the root keys and uses them, or says why they are refused.
func (s session) ready(c Config) error {
	checks, err := s.examine(c)
	if err != nil {
		return err
	}
	if err := refused(checks); err != nil {
		return err
	}
	return refused(s.probe())
}
