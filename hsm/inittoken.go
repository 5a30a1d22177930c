package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// ErrTokenExists is returned by InitToken: a token of that label is there, and
// nothing was done.
var ErrTokenExists = errors.New("hsm: a token of this label is there already")

// InitToken makes a token in the first slot of the module that has none, with
// a label of at most 32 bytes, a PIN for its security officer and one for its
// user. If one of that label is there it returns ErrTokenExists: with two, none
// could be told from the other. One whose user has no PIN yet, as of an InitToken that
// was ended, gets it. It is for tokens of SoftHSM, and refuses another
// module: a token that guards keys is made with the tool of its maker, whose PINs
// do not pass through this process.
func InitToken(ctx context.Context, path, label, officerPIN, userPIN string) error {
	m, err := useModule(ctx, path, "", false)
	if err != nil {
		return err
	}
	slot, begun, err := m.placeFor(ctx, label)
	if err == nil {
		err = m.within(ctx, func() error { return m.makeToken(slot, begun, label, officerPIN, userPIN) })
	}
	return errors.Join(err, m.release(DefaultTimeout))
}

// placeFor is slotFor, seen so more than once: a token that SoftHSM hides for a moment
// (see search) must not be made a second time, nor its user get another PIN.
func (m *module) placeFor(ctx context.Context, label string) (slot uint, begun bool, err error) {
	for looks := 0; looks < 3; looks++ {
		if looks > 0 && !m.resets.serves() {
			time.Sleep(seekPause << looks)
			if err := m.reinitialize(ctx, m.generation()); err != nil {
				return 0, false, err
			}
		}
		err := m.within(ctx, func() (err error) { slot, begun, err = m.slotFor(label); return err })
		if err != nil {
			return 0, false, err
		}
	}
	return slot, begun, nil
}

// within runs fn, which calls the library.
func (m *module) within(ctx context.Context, fn func() error) error {
	if err := m.enter(ctx, m.generation()); err != nil {
		return err
	}
	defer m.leave()
	return fn()
}

func (m *module) makeToken(slot uint, begun bool, label, officerPIN, userPIN string) error {
	if !begun {
		if err := m.ctx.InitToken(slot, officerPIN, label); err != nil {
			return answered("C_InitToken", err)
		}
	}
	return m.initPIN(slot, officerPIN, userPIN)
}

// initPIN gives the user of a token a PIN.
func (m *module) initPIN(slot uint, officerPIN, userPIN string) error {
	session, err := m.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return answered("C_OpenSession", err)
	}
	defer m.ctx.CloseSession(session) // the last session of a token logs out
	if err := m.ctx.Login(session, pkcs11.CKU_SO, officerPIN); err != nil {
		return answered("C_Login", err)
	}
	return answered("C_InitPIN", m.ctx.InitPIN(session, userPIN))
}

// slotFor returns a slot in which a token with this label may be made, or was, but
// its user has no PIN.
func (m *module) slotFor(label string) (slot uint, begun bool, err error) {
	if soft, err := m.isSoftHSM(); err != nil {
		return 0, false, err
	} else if !soft {
		return 0, false, fmt.Errorf("hsm: %s is not SoftHSM: make the token with the tool of its maker: %w", m.path, kms.ErrUnsupported)
	}
	tokens, err := m.tokens()
	if err != nil {
		return 0, false, err
	}
	free := slices.IndexFunc(tokens, func(t slotToken) bool { return !t.made() })
	same := slices.IndexFunc(tokens, func(t slotToken) bool { return t.info.Label == label && t.made() })
	switch {
	case same >= 0 && tokens[same].info.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return tokens[same].slot, true, nil
	case same >= 0:
		return 0, false, fmt.Errorf("%w: %q", ErrTokenExists, label)
	case free < 0:
		return 0, false, fmt.Errorf("hsm: every slot of the module has a token: %w", kms.ErrUnsupported)
	}
	return tokens[free].slot, false, nil
}
