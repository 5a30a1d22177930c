package hsm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// Private keys are used by way of crypto11. It takes part in the life of the library:
// the first of its contexts initialises it, and fails if that has been done already;
// the last that is closed finalizes it. So where private keys are used, crypto11 is
// the one that initialises the library of a module and finalizes it, but always and
// only when module would: with no call in the library. It never sees the PIN: a
// login holds for all sessions of the application (PKCS#11 v2.40 5.6.1), and that is the
// link's.

// signSessions is how many sessions crypto11 opens in a token to sign with, beside
// one that it only keeps open.
const signSessions = 4

// A lender is where the private keys of a module's tokens are used.
type lender struct {
	wanted atomic.Bool // crypto11 is to initialise the library

	mu      sync.Mutex         // held over no call of the module, which may hang
	signers map[uint]*slotKeys // by slot; empty: crypto11 has not initialised the library
	opening map[uint]*turn     // by slot; of the call that opens signers of it
	hung    int                // turns of opening that another took the place of
	retired []*slotKeys        // that are not closed yet
	closing int                // that were retired, and wait for calls to end
	why     error              // if signers is empty
}

// maxUnended is how many contexts of a module may hang while they are opened, and how many
// may wait for calls to end before they are closed, before no other takes the place of
// one: each has had sessions, and workers.
const maxUnended = 2

// slotKeys are the private keys of a token that were used in one crypto11 context.
type slotKeys struct {
	ctx     *crypto11.Context
	using   *turn // of the calls that use a session
	looking *turn // of the one among them that looks for a key

	mu   sync.Mutex                 // held over no call of the module
	keys map[string]crypto11.Signer // by their selectors
}

// whyUnlent returns why crypto11 has not initialised a library: another part of the
// process has or, which is nil, private keys are not to be lent.
func whyUnlent(lend bool) error {
	if lend {
		return errAnothers
	}
	return nil
}

// lend makes crypto11 part of m, which is initialised anew if need be.
func (m *module) lend(ctx context.Context) error {
	gen := m.gen.Load()
	if m.lender.wanted.Swap(true) {
		return nil
	}
	return m.reinitialize(ctx, gen)
}

// owesKeys reports whether private keys could perhaps be used if the module were
// initialised anew: when it last was, there was no token, or crypto11 failed.
func (m *module) owesKeys() bool {
	l := &m.lender
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wanted.Load() && len(l.signers) == 0 && errors.Is(l.why, kms.ErrUnavailable)
}

var errNoToken = fmt.Errorf("hsm: no token was there when the module was initialised: %w", kms.ErrUnavailable)

// handOver has crypto11 initialise the library, which m has just done: crypto11 wants
// a token that is there, and only a library that is initialised tells of one. If
// crypto11 cannot, m does again, and private keys cannot be used. No other call is in the
// library.
func (m *module) handOver() error {
	l := &m.lender
	l.begin(errNoToken)
	if m.args != "" {
		l.begin(fmt.Errorf("hsm: private keys cannot be used in a module with init_args: %w", kms.ErrUnsupported))
		return nil
	}
	tokens, err := m.tokens()
	i := slices.IndexFunc(tokens, slotToken.made)
	if err != nil || i < 0 {
		return nil
	}
	if err := m.ctx.Finalize(); err != nil {
		return answered("C_Finalize", err)
	}
	k, err := m.openKeys(tokens[i].slot)
	if err != nil {
		l.begin(err)
		return m.initializeAlone()
	}
	l.put(tokens[i].slot, nil, k)
	return nil
}

// begin forgets what is of an earlier initialisation. Until put is called, no private key
// can be used, for why.
func (l *lender) begin(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signers, l.opening, l.hung, l.why = make(map[uint]*slotKeys), make(map[uint]*turn), 0, why
}

// put has k used for the private keys of a slot in the place of old, which may be nil and
// is retired. It reports false if that is not what is used: another call was first.
func (l *lender) put(slot uint, old, k *slotKeys) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.signers[slot] != old {
		return false
	}
	if old != nil {
		l.retired = append(l.retired, old)
	}
	l.signers[slot] = k
	return true
}

// openKeys opens a crypto11 context. crypto11 asks each slot for its token, and gives up
// at the first that fails, whichever it was to open: such a fault may be over soon.
func (m *module) openKeys(slot uint) (k *slotKeys, err error) {
	for tries := range openTries {
		if tries > 0 {
			time.Sleep(openPause)
		}
		if k, err = m.openKeysOnce(slot); err == nil {
			return k, nil
		}
	}
	return nil, err
}

const (
	openTries = 3
	openPause = 20 * time.Millisecond
)

func (m *module) openKeysOnce(slot uint) (*slotKeys, error) {
	number := int(slot)
	ctx, err := crypto11.Configure(&crypto11.Config{Path: m.path, SlotNumber: &number, LoginNotSupported: true,
		MaxSessions: signSessions + 1, PoolWaitTimeout: DefaultTimeout})
	if err != nil {
		return nil, fromCrypto11("open", err)
	}
	return &slotKeys{ctx: ctx, using: newTurn(signSessions), looking: newTurn(1), keys: make(map[string]crypto11.Signer)}, nil
}

// takeBack has crypto11 finalize the library if crypto11 initialised it. It does not tell
// whether that worked. No call is in the library.
func (m *module) takeBack() {
	for _, k := range m.lender.empty() {
		_ = k.ctx.Close() // the last finalizes the library; it always returns nil
	}
}

// empty takes out what is not closed yet, unless crypto11 has not initialised the library.
func (l *lender) empty() []*slotKeys {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.signers) == 0 {
		return nil
	}
	all := append(slices.Collect(maps.Values(l.signers)), l.retired...)
	l.signers, l.retired = nil, nil
	return all
}

// keysOf returns where the private keys of the slot of a link are used. It is called
// inside enter and leave, as dropKeys is.
func (m *module) keysOf(at *link) (*slotKeys, error) {
	l := &m.lender
	if k, err := l.find(at.slot); k != nil || err != nil {
		return k, err
	}
	if _, err := m.openInPlaceOf(at, nil); err != nil {
		return nil, err
	}
	return l.find(at.slot)
}

// openInPlaceOf opens a crypto11 context for the slot of a link in the place of old, which
// may be nil. It does nothing and reports false if another call was first.
func (m *module) openInPlaceOf(at *link, old *slotKeys) (opened bool, err error) {
	l := &m.lender
	opening := l.turnOf(at)
	if !opening.take(at.wait) {
		return false, errTurn
	}
	defer opening.give()
	if !l.replaces(at.slot, old) {
		return false, nil
	}
	k, err := m.openKeys(at.slot)
	if err != nil {
		return false, err
	}
	if !l.put(at.slot, old, k) { // it hung, and another took its place
		return false, k.ctx.Close()
	}
	return true, nil
}

// find returns where the private keys of a slot are used, nil if none was yet, or why
// they cannot be.
func (l *lender) find(slot uint) (*slotKeys, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.signers) > 0:
		return l.signers[slot], nil
	case l.why == nil:
		return nil, fmt.Errorf("hsm: the root was not opened to use private keys: %w", kms.ErrUnsupported)
	}
	return nil, l.why
}

// turnOf returns the turn of who opens what is used for the slot of a link.
func (l *lender) turnOf(at *link) *turn {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.opening[at.slot]
	if t != nil && t.hangs(at.timeout) && l.hung < maxUnended {
		l.hung++
		t = nil
	}
	if t == nil {
		t = newTurn(1)
		l.opening[at.slot] = t
	}
	return t
}

// dropKeys takes out of use what failed: crypto11 keeps a session that is dead and
// gives it to the next call. Another context takes its place, opened before the old
// one is closed, as the last one that is closed finalizes the library. If it cannot be
// opened the next call tries again.
func (m *module) dropKeys(at *link, k *slotKeys) {
	if opened, _ := m.openInPlaceOf(at, k); opened {
		go m.closeKeys(m.gen.Load(), k)
	}
}

// replaces reports whether another context is to take the place of k, which may be nil: no
// other call was first, and not too many that were retired wait for calls to end.
func (l *lender) replaces(slot uint, k *slotKeys) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.signers[slot] == k && (k == nil || l.closing < maxUnended)
}

// closeKeys closes k, if that is not done by then. It waits for calls that hang.
func (m *module) closeKeys(gen uint64, k *slotKeys) {
	if m.enter(context.Background(), gen) != nil {
		return // takeBack was first
	}
	defer m.leave()
	l := &m.lender
	l.mu.Lock()
	i := slices.Index(l.retired, k)
	l.retired = slices.Delete(l.retired, i, i+1)
	l.closing++
	l.mu.Unlock()
	_ = k.ctx.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing--
}

// fromCrypto11 returns an error of crypto11 as one of ours, with the code of the module
// if there is one.
func fromCrypto11(doing string, err error) error {
	if code, ok := errors.AsType[pkcs11.Error](err); ok {
		return failed("crypto11 "+doing, uint(code))
	}
	return fmt.Errorf("hsm: crypto11: %s: %w: %w", doing, err, kms.ErrUnavailable)
}
