package hsm

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// A session is a session of a link. One goroutine uses it at a time, inside
// link.enter and link.leave.
type session struct {
	link   *link
	handle pkcs11.SessionHandle
}

// open opens a session of l, which is read-only unless flags or those of l say
// otherwise.
func (l *link) open(flags uint) (session, error) {
	h, err := l.module.ctx.OpenSession(l.slot, pkcs11.CKF_SERIAL_SESSION|l.flags|flags)
	if err != nil {
		err = answered("C_OpenSession", err)
		if flags == 0 && l.anchor.link != nil {
			err = askedBefore(err) // for the anchor
		}
		return session{}, err
	}
	l.sessions.Add(1)
	return session{link: l, handle: h}, nil
}

// close closes the session if it is open. It is called outside link.enter; if
// the module was initialised anew, the session is gone already.
func (s *session) close() {
	if s.link == nil {
		return
	}
	if l := s.link; l.enter(context.Background()) == nil {
		defer l.leave()
		s.abandon()
		return
	}
	s.forget()
}

// abandon closes the session inside link.enter. It may be dead already.
func (s *session) abandon() {
	_ = s.link.module.ctx.CloseSession(s.handle)
	s.forget()
}

func (s *session) forget() {
	s.link.sessions.Add(-1)
	*s = session{}
}

// seal encrypts plaintext under a fresh IV and appends IV, ciphertext and tag
// to dst.
func (s session) seal(key pkcs11.ObjectHandle, dst, plaintext, additionalData []byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, make([]byte, ivSize+len(plaintext)+tagSize)...)
	iv, out := dst[start:start+ivSize], dst[start+ivSize:]
	rand.Read(iv)
	n, err := s.link.module.gcm(true, s.handle, key, iv, additionalData, plaintext, out)
	if err != nil {
		return nil, err
	}
	if n != len(out) {
		return nil, &Error{Function: "C_Encrypt", Code: pkcs11.CKR_GENERAL_ERROR}
	}
	return dst, nil
}

// unseal decrypts what seal made, which is at least ivSize+tagSize bytes, and
// writes no byte that is not authentic to memory that stays.
func (s session) unseal(key pkcs11.ObjectHandle, ciphertext, additionalData []byte) ([]byte, error) {
	iv, sealed := ciphertext[:ivSize], ciphertext[ivSize:]
	// Some modules ask for room for the tag, too.
	out := make([]byte, len(sealed))
	n, err := s.link.module.gcm(false, s.handle, key, iv, additionalData, sealed, out)
	if err == nil && n != len(sealed)-tagSize {
		err = &Error{Function: "C_Decrypt", Code: pkcs11.CKR_GENERAL_ERROR}
	}
	if err != nil {
		clear(out)
		return nil, err
	}
	clear(out[n:])
	return out[:n], nil
}

func (s session) mac(key pkcs11.ObjectHandle, message []byte) (mac [kms.MACSize]byte, err error) {
	n, err := s.link.module.hmac(s.handle, key, message, mac[:])
	if err == nil && n != len(mac) {
		err = &Error{Function: "C_Sign", Code: pkcs11.CKR_GENERAL_ERROR}
	}
	return mac, err
}

func (s session) destroy(object pkcs11.ObjectHandle) error {
	return answered("C_DestroyObject", s.link.module.ctx.DestroyObject(s.handle, object))
}

// checkOf returns the check of a key handle for the key that object is.
func (s session) checkOf(object pkcs11.ObjectHandle, h keyHandle) ([]byte, error) {
	if h.purpose == kms.Encryption {
		return s.seal(object, nil, nil, checkData(h.id))
	}
	mac, err := s.mac(object, checkData(h.id))
	return mac[:macCheckSize], err
}

// errAnother is what verify returns for another key than the one of the handle: it may
// be that, or that the token computes another MAC than it should.
var errAnother = fmt.Errorf("hsm: the token gave another key than the one that was stored: %w", kms.ErrUnavailable)

// verify uses object and returns nil if it is the key of h.
func (s session) verify(object pkcs11.ObjectHandle, h keyHandle) error {
	if h.purpose == kms.Encryption {
		_, err := s.unseal(object, h.check, checkData(h.id))
		return err
	}
	mac, err := s.mac(object, checkData(h.id))
	if err == nil && subtle.ConstantTimeCompare(mac[:macCheckSize], h.check) != 1 {
		return errAnother
	}
	return err
}
