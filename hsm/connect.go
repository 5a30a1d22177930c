package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// connect makes a link. If the token fails or is not there it tries once more
// with the module initialised anew, since some modules see only then that a
// token is back; not if the PIN is wrong or the token is refused, and seldom if that
// costs another token its connection. Nor does it outlive that, so it is done before the
// link is used if private keys are owed.
func (t *token) connect(ctx context.Context) (*link, error) {
	gen := t.module.generation()
	l, err := t.newLink(ctx, gen)
	if err != nil && t.wasConnected() {
		err = askedBefore(err)
	}
	if !t.resets(err) {
		return l, err
	}
	for s := new(search); ; {
		switch resetErr := t.module.reinitialize(ctx, gen); {
		case resetErr == nil:
		case l.usable(): // it works, without private keys
			return l, nil
		case err == nil:
			return nil, resetErr
		default:
			return nil, fmt.Errorf("%w; %w", err, resetErr)
		}
		gen = t.module.generation()
		l, err = t.newLink(ctx, gen)
		if t.module.resets.shared(t) || !s.again(ctx, err) || !t.module.mayReset(t) {
			break
		}
	}
	switch {
	case err == nil && !t.module.owesKeys():
		t.module.resetHelped()
	case err != nil && t.wasConnected():
		err = askedBefore(err)
	}
	return l, err
}

// resets reports whether the library is to be initialised anew after a connection that
// was not made for err or, where that is nil, after one that works. It counts as done then.
func (t *token) resets(err error) bool {
	if err == nil {
		return t.module.owesKeys() && t.module.mayResetForKeys(t)
	}
	return worthReset(err) && t.module.mayReset(t)
}

func (t *token) wasConnected() bool {
	t.repair.mu.Lock()
	defer t.repair.mu.Unlock()
	return t.repair.links > 0
}

func worthReset(err error) bool {
	if c, ok := classOf(err); ok {
		return c != requestFault && c != pinFault
	}
	_, missing := errors.AsType[*notFoundError](err)
	return missing || errors.Is(err, errStale)
}

// newLink logs in, finds the root keys and uses them.
func (t *token) newLink(ctx context.Context, gen uint64) (*link, error) {
	l, err := t.newBareLink(ctx, gen, 0)
	if err != nil {
		return nil, err
	}
	if err := l.enter(ctx); err != nil {
		return nil, err
	}
	defer l.leave()
	err = l.anchor.ready(t.cfg)
	if err == nil {
		err = t.same.recognize(l.anchor)
	}
	if err != nil {
		l.anchor.abandon()
		return nil, err
	}
	if l.wrap.note != "" {
		t.log.Warn("hsm: "+l.wrap.note, "token", t.cfg.logName())
	}
	for _, text := range l.broke {
		t.log.Warn("hsm: root.pkcs11.accept lets a token be used that should not be", "token", t.cfg.logName(), "broken", text)
	}
	l.loaders = make([]loader, l.token.loaders(t.cfg.Sessions))
	l.loaders[0].session = l.anchor
	return l, nil
}

// newBareLink finds the token, opens a session with flags and logs in.
func (t *token) newBareLink(ctx context.Context, gen uint64, flags uint) (_ *link, err error) {
	l := &link{module: t.module, log: t.log, gen: gen, limit: t.cfg.Keys, life: t.cfg.SessionLifetime, wait: t.cfg.Queue.Wait, timeout: t.cfg.Timeout, accept: t.cfg.Accept, copyable: t.cfg.Copyable == copyableAllowed, keys: make(map[string]*loaded), objects: make(map[pkcs11.ObjectHandle]*loaded)}
	if err := l.enter(ctx); err != nil {
		return nil, err
	}
	defer l.leave()
	if l.slot, l.token, err = findToken(t.module, t.wanted()); err != nil {
		return nil, err
	}
	if t.cfg.Residency == residencyToken {
		l.keeps, l.flags = true, pkcs11.CKF_RW_SESSION // keys are made and destroyed in the token
	}
	if l.anchor, err = l.open(flags); err != nil {
		return nil, err
	}
	if err := t.login(l.anchor); err != nil {
		l.anchor.abandon()
		return nil, err
	}
	return l, nil
}

// wanted returns what names the token. Slots are renumbered, so one that was named by
// its slot is known by its serial number once it has been connected to.
func (t *token) wanted() Config {
	c := t.cfg
	if l := t.link.Load(); c.Slot != nil && l != nil {
		c.Slot, c.Token, c.Serial = nil, l.token.Label, l.token.Serial
	}
	return c
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
