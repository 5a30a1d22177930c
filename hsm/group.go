package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/within"
)

// A group is the tokens of a root, which hold the same root keys: that is shown
// through each token whenever it is connected to (see acquaintance), so what one has
// wrapped any other opens. Ops are spread over those that work. One that fails is
// tried once more in another token, and a token that fails stays out of the way until
// a probe shows that it works.
type group struct {
	cfg     Config
	log     *slog.Logger
	same    *acquaintance
	members []*member
	moved   atomic.Uint64 // ops that were tried again in another token
	life    context.Context
	end     context.CancelFunc
	probes  sync.WaitGroup
}

// openGroup connects to all tokens at the same time.
func openGroup(ctx context.Context, cfg Config, log *slog.Logger) (*group, error) {
	g := &group{cfg: cfg, log: log, same: new(acquaintance)}
	g.life, g.end = context.WithCancel(context.Background())
	for _, c := range cfg.EachToken() {
		g.members = append(g.members, newMember(c, g))
	}
	if err := g.takePINs(); err != nil {
		return nil, errors.Join(err, g.close())
	}
	var opened sync.WaitGroup
	for _, m := range g.members {
		opened.Go(func() { m.open(ctx) })
	}
	opened.Wait()
	if err := g.opened(); err != nil {
		return nil, errors.Join(err, g.close())
	}
	if len(g.members) > 1 {
		for _, m := range g.members {
			g.probes.Go(m.watch)
		}
	}
	return g, nil
}

// takePINs reads the PINs that can be read only once: tokens may share one, and worker
// processes, which are not to have any, inherit the environment and descriptors.
func (g *group) takePINs() error {
	taken := make(map[PIN]*pinSource)
	for _, m := range g.members {
		if m.cfg.PIN.File != "" {
			continue
		}
		if err := m.pin.take(taken[m.cfg.PIN]); err != nil {
			return err
		}
		taken[m.cfg.PIN] = m.pin
	}
	return nil
}

// opened returns why the group cannot be used: no token is there, or one that is
// there is refused. That is a fault of the configuration, which cannot be told from
// the others' being wrong, and so no token is used.
func (g *group) opened() error {
	var away []error
	for _, m := range g.members {
		err := m.reason()
		switch {
		case err == nil:
		case len(g.members) == 1:
			return err
		case !errors.Is(err, kms.ErrUnavailable) || errors.Is(err, kms.ErrDenied):
			return fmt.Errorf("hsm: %s: %w", m.name, err)
		default:
			away = append(away, fmt.Errorf("hsm: %s: %w", m.name, err))
		}
	}
	if len(away) == len(g.members) {
		return errors.Join(away...)
	}
	for _, err := range away {
		g.log.Error("hsm: a token cannot be used; the others are", "error", err)
	}
	return nil
}

// do does o in a token that works and, if that fails as another token might not,
// once more in another.
func (g *group) do(ctx context.Context, o op) ([]byte, error) {
	if len(g.members) > 1 && isResident(o.handle) {
		return nil, errInOneToken
	}
	first, second := g.pick()
	if second == nil {
		return first.do(ctx, &o)
	}
	w := new(within.Context)
	w.Begin(ctx, time.Now().Add(g.cfg.Timeout))
	defer w.Stop()
	attempt := first.do
	if second.works() {
		attempt = first.doOnce
	}
	result, err := attempt(w, &o)
	if err == nil || !elsewhere(err) || w.Err() != nil {
		return result, err
	}
	g.moved.Add(1)
	again, err2 := second.do(w, &o)
	if err2 != nil && elsewhere(err2) {
		return nil, fmt.Errorf("%w; and before, %w", err2, err)
	}
	return again, err2
}

// elsewhere reports whether another token may do what one could not: the answer is
// not about what was asked, or is that of a module, which may be wrong about it.
func elsewhere(err error) bool {
	switch {
	case errors.Is(err, kms.ErrCiphertext) || errors.Is(err, kms.ErrCorrupt) || errors.Is(err, kms.ErrKeySize):
		return false
	case errors.Is(err, kms.ErrUnsupported):
		_, module := classOf(err)
		return module
	}
	return true
}

// pick returns the token to use and the one to use if that fails: those that work
// before the others, and among them the one with the least to do. With one token
// there is no second.
func (g *group) pick() (first, second *member) {
	n := len(g.members)
	if n == 1 {
		return g.members[0], nil
	}
	start := rand.IntN(n) // a turn would give each kind of op of a regular client to one token
	for i := range n {
		switch m := g.members[(start+i)%n]; {
		case first == nil || m.before(first):
			first, second = m, first
		case second == nil || m.before(second):
			second = m
		}
	}
	return first, second
}

// destroy takes a key out of all tokens.
func (g *group) destroy(ctx context.Context, handle []byte) error {
	var errs []error
	for _, m := range g.members {
		if _, err := m.do(ctx, &op{kind: opDestroy, handle: handle}); err != nil && (len(g.members) == 1 || m.works() || isResident(handle)) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// close closes all members. It does not wait for a probe that hangs: what that makes in
// the end is closed then.
func (g *group) close() error {
	g.end()
	errs := make([]error, len(g.members)+1)
	if !ends(&g.probes, 2*g.cfg.Timeout) {
		errs[len(g.members)] = errHung
	}
	var closed sync.WaitGroup
	for i, m := range g.members {
		closed.Go(func() { errs[i] = m.close() })
	}
	closed.Wait()
	return errors.Join(errs...)
}
