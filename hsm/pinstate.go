package hsm

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// ErrPINAtRisk says that the PIN was not tried: if it is wrong, the token locks it,
// or has locked it already. Doctor, asked to, tries it; a login that succeeds sets
// the token's count back.
var ErrPINAtRisk = fmt.Errorf("hsm: the PIN was not tried: %w", kms.ErrDenied)

// pinAtRisk returns ErrPINAtRisk if the token says that one more wrong PIN locks it,
// or that it is locked (CK_TOKEN_INFO, PKCS#11 v2.40 base 3.2). Several gateways with
// the same wrong PIN, each of which tries it once, would lock a token.
func pinAtRisk(flags uint) error {
	switch {
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: the token has locked it (CKF_USER_PIN_LOCKED): its security officer has to set a new one", ErrPINAtRisk)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: one more wrong PIN locks the token (CKF_USER_PIN_FINAL_TRY): see that the PIN is right, then log in with keygate hsm doctor --final-try", ErrPINAtRisk)
	}
	return nil
}

// officerPINAtRisk is pinAtRisk for the security officer.
func officerPINAtRisk(flags uint) error {
	switch {
	case flags&pkcs11.CKF_SO_PIN_LOCKED != 0:
		return fmt.Errorf("%w: the token has locked that of its security officer (CKF_SO_PIN_LOCKED)", ErrPINAtRisk)
	case flags&pkcs11.CKF_SO_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: one more wrong PIN of the security officer locks it (CKF_SO_PIN_FINAL_TRY): see that the PIN is right, and log in as the security officer with the tool of the token's maker first", ErrPINAtRisk)
	}
	return nil
}

// pinRisk asks the token whether a login may be tried, and returns why not: an error
// that is ErrPINAtRisk. It is no reason not to try a PIN that the token has accepted
// from this process before.
func (t *token) pinRisk(l *link) (risk, err error) {
	info, err := t.module.ctx.GetTokenInfo(l.slot)
	if err != nil {
		return nil, answered("C_GetTokenInfo", err)
	}
	if t.finalTry && info.Flags&pkcs11.CKF_USER_PIN_LOCKED == 0 {
		return nil, nil
	}
	return pinAtRisk(info.Flags), nil
}

// countLogin counts what became of a login, and returns it.
func (t *token) countLogin(err error) error {
	switch {
	case errors.Is(err, ErrPIN):
		t.count.refused.Add(1)
	case errors.Is(err, ErrPINAtRisk), errors.Is(err, errRefused):
		t.count.withheld.Add(1)
	}
	return err
}

// An acceptedPIN knows the PIN that a token accepted last when it meets it again,
// without keeping it: it has an HMAC of it under a key of its own. The zero value
// knows none. pinSource.use holds a lock around its methods.
type acceptedPIN struct {
	key [sha256.Size]byte
	mac []byte
}

func (a *acceptedPIN) note(pin []byte) {
	rand.Read(a.key[:])
	a.mac = a.of(pin)
}

func (a *acceptedPIN) is(pin []byte) bool {
	return a.mac != nil && hmac.Equal(a.mac, a.of(pin))
}

func (a *acceptedPIN) of(pin []byte) []byte {
	h := hmac.New(sha256.New, a.key[:])
	h.Write(pin)
	return h.Sum(nil)
}

// attempted returns what an attempt to reach a token comes to that ended with err,
// where its own counts are lost with its process.
func attempted(err error) Stats {
	s := Stats{Failures: 1}
	switch {
	case errors.Is(err, ErrPINAtRisk), errors.Is(err, errRefused), errors.Is(err, errDoubted):
		s.PINsWithheld = 1
	case errors.Is(err, ErrPIN):
		s.Logins, s.PINsRefused = 1, 1
	}
	return s
}

// The flags of CK_TOKEN_INFO that tell of a PIN (PKCS#11 v2.40 base 3.2). All but change
// are about the wrong ones since the last login.
type pinFlags struct{ low, final, locked, change uint }

var (
	userPIN    = pinFlags{pkcs11.CKF_USER_PIN_COUNT_LOW, pkcs11.CKF_USER_PIN_FINAL_TRY, pkcs11.CKF_USER_PIN_LOCKED, pkcs11.CKF_USER_PIN_TO_BE_CHANGED}
	officerPIN = pinFlags{pkcs11.CKF_SO_PIN_COUNT_LOW, pkcs11.CKF_SO_PIN_FINAL_TRY, pkcs11.CKF_SO_PIN_LOCKED, pkcs11.CKF_SO_PIN_TO_BE_CHANGED}
)

// tell says what the flags of a token tell of a PIN.
func (p pinFlags) tell(flags uint) string {
	found := "no wrong one since the last login"
	switch {
	case flags&p.locked != 0:
		found = "locked"
	case flags&p.final != 0:
		found = "one wrong one more locks it"
	case flags&p.low != 0:
		found = "a wrong one was given since the last login"
	}
	if flags&p.change != 0 {
		found += "; to be changed"
	}
	return found
}

// pinCheck says what the token knows about the user's PIN before a login.
func pinCheck(flags uint) Check {
	c := Check{What: "PIN of the user", Found: userPIN.tell(flags), OK: true}
	if err := pinAtRisk(flags); err != nil {
		c.OK, c.Why, c.err = false, err.Error(), err
	}
	return c
}

// officerCheck says what the token knows about the security officer's PIN, without which
// a KEK cannot be replaced, nor the user be given a new PIN. A gateway needs neither, so
// the token is no worse for it.
func officerCheck(flags uint) Check {
	return Check{What: "PIN of the security officer", Found: officerPIN.tell(flags), OK: true}
}
