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
// could be told from the other. It is for tokens of SoftHSM, and refuses another
// module: a token that guards keys is made with the tool of its maker, whose PINs
// do not pass through this process.
func InitToken(ctx context.Context, path, label, officerPIN, userPIN string) error {
	return inModule(ctx, path, func(m *module) error {
		slot, err := m.slotFor(label)
		if err != nil {
			return err
		}
		return m.initToken(slot, label, officerPIN, userPIN)
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

func (m *module) initToken(slot uint, label, officerPIN, userPIN string) error {
	if err := m.ctx.InitToken(slot, officerPIN, label); err != nil {
		return answered("C_InitToken", err)
	}
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

// slotFor returns a slot in which a token with this label may be made.
func (m *module) slotFor(label string) (uint, error) {
	if soft, err := m.isSoftHSM(); err != nil {
		return 0, err
	} else if !soft {
		return 0, fmt.Errorf("hsm: %s is not SoftHSM: make the token with the tool of its maker: %w", m.path, kms.ErrUnsupported)
	}
	tokens, err := m.tokens()
	if err != nil {
		return 0, err
	}
	free := slices.IndexFunc(tokens, func(t slotToken) bool { return !t.made() })
	switch {
	case slices.ContainsFunc(tokens, func(t slotToken) bool { return t.info.Label == label && t.made() }):
		return 0, fmt.Errorf("%w: %q", ErrTokenExists, label)
	case free < 0:
		return 0, fmt.Errorf("hsm: every slot of the module has a token: %w", kms.ErrUnsupported)
	}
	return tokens[free].slot, nil
}
