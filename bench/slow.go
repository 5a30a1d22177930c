package main

import (
	"context"
	"time"
)

// The HSM of the overload scenarios is SoftHSM made slow, so that what is
// overloaded is the HSM and not the machine, of which the load generator has a
// part: 20 times its peak are some 4,000 requests a second, which two CPUs can
// both send and refuse.
const (
	slowBy       = 20 * time.Millisecond // added to each C_Encrypt
	slowSessions = 4
)

// A slowGateway makes every DEK in a slow HSM.
type slowGateway struct {
	*gateway
	shim *shim
	peak float64 // generates a second that it can do
	calm figures // at a tenth of that
}

// slowGateway starts one, with the given clients beside app, and looks what it
// can do.
func (b *bench) slowGateway(ctx context.Context, name string, c config) (*slowGateway, error) {
	s, err := b.newShim()
	if err != nil {
		return nil, err
	}
	direct := b.directConfig(slowSessions)
	c.mode, c.sessions, c.module = direct.mode, direct.sessions, s.module
	g, err := b.gateway(ctx, name, c, s.Env()...)
	if err != nil {
		s.Close()
		return nil, err
	}
	slow := &slowGateway{gateway: g, shim: s}
	if err := b.calibrate(ctx, slow); err != nil {
		slow.stop()
		return nil, err
	}
	return slow, nil
}

func (b *bench) calibrate(ctx context.Context, g *slowGateway) error {
	if err := g.createKey(ctx, floorKey); err != nil {
		return err
	}
	if err := g.shim.slow("C_Encrypt", slowBy); err != nil {
		return err
	}
	l := b.load(g.target(g.state.app), http1, always(generate(floorKey)))
	l.conns = 4 * slowSessions
	f, err := measure(ctx, l, g.process, b.warm, b.d)
	if err == nil {
		err = f.clean()
	}
	if err != nil {
		return err
	}
	g.peak = f.rate
	l.rate = g.peak / 10
	if g.calm, err = measure(ctx, l, g.process, b.warm, b.d); err == nil {
		err = g.calm.clean()
	}
	return err
}

// stop ends the gateway, at its usual speed.
func (g *slowGateway) stop() {
	g.shim.slow("C_Encrypt", 0)
	g.gateway.stop()
	g.shim.Close()
}
