package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// InitToken makes a token in the first slot of the module that has none, with
// a label of at most 32 bytes, a PIN for its security officer and one for its
// user. It is for test tokens: a token that guards keys is made with the tool of
// its maker, whose PINs do not pass through this process.
func InitToken(ctx context.Context, module, label, officerPIN, userPIN string) error {
	m, err := useModule(module, "")
	if err != nil {
		return err
	}
	err = m.enter(ctx, m.generation())
	if err == nil {
		err = m.initToken(label, officerPIN, userPIN)
		m.leave()
	}
	return errors.Join(err, m.release(DefaultTimeout))
}

func (m *module) initToken(label, officerPIN, userPIN string) error {
	slot, err := m.freeSlot()
	if err != nil {
		return err
	}
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

func (m *module) freeSlot() (uint, error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, answered("C_GetSlotList", err)
	}
	for _, slot := range slots {
		info, err := m.ctx.GetTokenInfo(slot)
		// A token that does not answer is not a free one.
		if err == nil && info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("hsm: every slot of the module has a token: %w", kms.ErrUnsupported)
}
