package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	return inModule(ctx, path, func(m *module) error {
		slot, begun, err := m.slotFor(label)
		if err != nil {
			return err
		}
		if !begun {
			if err := m.ctx.InitToken(slot, officerPIN, label); err != nil {
				return answered("C_InitToken", err)
			}
		}
		return m.initPIN(slot, officerPIN, userPIN)
	})
}

// inModule runs fn with calls of the library at path.
func inModule(ctx context.Context, path string, fn func(*module) error) error {
	m, err := useModule(path, "")
	if err != nil {
		return err
	}
	err = m.enter(ctx, m.generation())
	if err == nil {
		err = fn(m)
		m.leave()
	}
	return errors.Join(err, m.release(DefaultTimeout))
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
