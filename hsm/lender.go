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
// only when module would: under module.mu, with no call in the library. It never sees
// the PIN: a login holds for all sessions of the application (PKCS#11 v2.40 5.6.1),
// and that is the link's.

// signSessions is how many sessions crypto11 opens in a token to sign with, beside
// one that it only keeps open.
const signSessions = 4

// A lender is where the private keys of a module's tokens are used.
type lender struct {
	wanted atomic.Bool // crypto11 is to initialise the library

	mu      sync.Mutex
	signers map[uint]*slotKeys // by slot; empty: crypto11 has not initialised the library
	retired []*slotKeys        // that are not closed yet
	why     error              // if signers is empty
}

// slotKeys are the private keys of a token that were used in one crypto11 context.
type slotKeys struct {
	ctx  *crypto11.Context
	mu   sync.Mutex
	keys map[string]crypto11.Signer // by their selectors
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
// crypto11 cannot, m does again, and private keys cannot be used.
func (m *module) handOver() error {
	l := &m.lender
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signers, l.why = make(map[uint]*slotKeys), errNoToken
	if m.args != "" {
		l.why = fmt.Errorf("hsm: private keys cannot be used in a module with init_args: %w", kms.ErrUnsupported)
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
		l.why = err
		return m.initializeAlone()
	}
	l.signers[tokens[i].slot] = k
	return nil
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
	return &slotKeys{ctx: ctx, keys: make(map[string]crypto11.Signer)}, nil
}

// takeBack finalizes the library if crypto11 initialised it, and reports whether it
// did. No call is in the library.
func (m *module) takeBack() bool {
	l := &m.lender
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.signers) == 0 {
		return false
	}
	for _, k := range append(slices.Collect(maps.Values(l.signers)), l.retired...) {
		_ = k.ctx.Close() // the last finalizes the library; it always returns nil
	}
	l.signers, l.retired = nil, nil
	return true
}

// keysOf returns where the private keys of a slot are used. It is called inside enter
// and leave.
func (m *module) keysOf(slot uint) (*slotKeys, error) {
	l := &m.lender
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := l.signers[slot]; k != nil {
		return k, nil
	}
	if len(l.signers) == 0 {
		if l.why == nil {
			return nil, fmt.Errorf("hsm: the root was not opened to use private keys: %w", kms.ErrUnsupported)
		}
		return nil, l.why
	}
	k, err := m.openKeys(slot)
	if err == nil {
		l.signers[slot] = k
	}
	return k, err
}

// dropKeys takes out of use what failed: crypto11 keeps a session that is dead and
// gives it to the next call. Another context takes its place, opened before the old
// one is closed, as the last one that is closed finalizes the library. It is called
// inside enter and leave.
func (m *module) dropKeys(slot uint, k *slotKeys) {
	l := &m.lender
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.signers[slot] != k {
		return // another call was first
	}
	next, err := m.openKeys(slot)
	if err != nil {
		return // the next call tries again
	}
	l.signers[slot] = next
	l.retired = append(l.retired, k)
	go m.closeKeys(m.gen.Load(), k)
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
	l.mu.Unlock()
	_ = k.ctx.Close()
}

// fromCrypto11 returns an error of crypto11 as one of ours, with the code of the module
// if there is one.
func fromCrypto11(doing string, err error) error {
	if code, ok := errors.AsType[pkcs11.Error](err); ok {
		return failed("crypto11 "+doing, uint(code))
	}
	return fmt.Errorf("hsm: crypto11: %s: %w: %w", doing, err, kms.ErrUnavailable)
}
