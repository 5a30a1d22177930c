package hsm

import (
	"context"
	"fmt"
)

// only returns the configuration of the one token that c names. What examines or
// changes a token is told which.
func (c Config) only() (Config, error) {
	all := c.EachToken()
	if len(all) != 1 {
		return c, fmt.Errorf("hsm: tokens: %d are named, and this is done with one: root keys are made in one token and cloned by its maker's means", len(all))
	}
	return all[0], nil
}

// alone returns the token that c, which has its defaults, names, for what is done once
// and without a Root, with private keys lent or not. Nothing was asked of it yet. end has
// to follow.
func (c Config) alone(ctx context.Context, lend bool) (*token, error) {
	m, err := useModule(ctx, c.Module, c.InitArgs, lend)
	if err != nil {
		return nil, err
	}
	return &token{cfg: c, module: m, pin: &pinSource{from: c.PIN}}, nil
}

// end lets go of what alone returned.
func (t *token) end() error {
	t.pin.forget()
	return t.module.release(t.cfg.Timeout)
}

// session runs fn in a session, opened with flags, that has logged in; it is closed
// after it. Nothing is known of the root keys.
func (t *token) session(ctx context.Context, flags uint, fn func(session) error) error {
	var l *link
	err := t.module.seek(ctx, func() (err error) {
		l, err = t.newBareLink(ctx, t.module.generation(), flags)
		return err
	})
	if err != nil {
		return err
	}
	defer l.anchor.close()
	if err := l.enter(ctx); err != nil {
		return err
	}
	defer l.leave()
	return fn(l.anchor)
}
