package hsm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// States of a session in which the user is logged in. PKCS#11 v2.40 3.3.
const (
	stateROUser = 1
	stateRWUser = 3
)

// login logs in unless this process is.
func (t *token) login(s session) error {
	info, err := s.link.module.ctx.GetSessionInfo(s.handle)
	if err != nil {
		return answered("C_GetSessionInfo", err)
	}
	if info.State == stateROUser || info.State == stateRWUser {
		return nil
	}
	risk, err := t.pinRisk(s.link)
	if err != nil {
		return err
	}
	return t.countLogin(t.pin.use(func(pin []byte, accepted bool) error {
		if risk != nil && !accepted {
			return risk
		}
		t.count.logins.Add(1)
		err := s.link.module.login(s.handle, false, pin)
		if e, ok := errors.AsType[*Error](err); ok && e.Code == pkcs11.CKR_USER_ALREADY_LOGGED_IN {
			return errNeedless // another root of this process was first
		}
		return err
	}))
}

const stepReadable = "refuse to unwrap a key so that it can be read"

// probe makes the link's own key, in the way that master keys are made, and
// uses it. It finds out whether the module encrypts as it should.
func (s session) probe() []Check {
	var checks []Check
	for _, step := range []struct {
		what string
		run  func() error
	}{
		{"make, wrap and unwrap a key", s.makeAnyProbe},
		{"encrypt and decrypt", func() error { return s.roundTrip(s.link.probe.object) }},
		{"authenticate with the record key", s.useRecordKey},
		{"refuse a bad tag", func() error { return s.refusesBadTag(s.link.probe.object) }},
		{"refuse a wrapped key that was changed", func() error { return s.refusesChangedKey(s.link.probe.handle) }},
		{stepReadable, s.refuseReadable},
		{"make objects one after the other", s.findReuse},
		{"go on after that", s.canary},
	} {
		c := tried(step.what, step.run())
		if step.what == stepReadable {
			c = s.judge("CKA_UNWRAP_TEMPLATE", c)
		}
		checks = append(checks, c)
		if !c.OK {
			break
		}
	}
	return checks
}

func (s session) useRecordKey() error {
	_, err := s.mac(s.link.recordKey.object, []byte(checkConstant))
	return err
}

var errWrong = fmt.Errorf("hsm: the token does not compute what it should: %w", kms.ErrUnavailable)

// roundTrip encrypts the same twice, and opens it.
func (s session) roundTrip(key pkcs11.ObjectHandle) error {
	plaintext, additionalData := []byte("keygate probe"), []byte("additional data")
	one, err := s.seal(key, nil, plaintext, additionalData)
	if err != nil {
		return err
	}
	two, err := s.seal(key, nil, plaintext, additionalData)
	if err != nil {
		return err
	}
	if bytes.Equal(one[ivSize:], two[ivSize:]) || bytes.Contains(one, plaintext) {
		return fmt.Errorf("%w: two encryptions with different IVs are the same", errWrong)
	}
	got, err := s.unseal(key, one, additionalData)
	if err == nil && !bytes.Equal(got, plaintext) {
		err = fmt.Errorf("%w: a ciphertext decrypts to something else", errWrong)
	}
	return err
}

// refusesBadTag shows that the tag is checked, and finds out what the token answers
// to a bad one.
func (s session) refusesBadTag(key pkcs11.ObjectHandle) error {
	bad, err := s.seal(key, nil, []byte("keygate probe"), nil)
	if err != nil {
		return err
	}
	bad[len(bad)-1] ^= 1
	s.link.refusals.tag, err = refuses("a bad tag", func() error {
		_, err := s.unseal(key, bad, nil)
		return err
	})
	if err != nil {
		return err
	}
	err = s.tagIsBad(key, bad, nil)
	if c, ok := classOf(err); ok && (c == requestFault || c.unsure()) {
		return nil // it wants each IV once
	}
	s.link.refusals.recomputes = err == nil
	return err
}

// refusesChangedKey is refusesBadTag for a wrapped key: RFC 3394 3.
func (s session) refusesChangedKey(h keyHandle) (err error) {
	if h.wrapping == inToken {
		return nil // this token wraps no key; see makeAnyProbe
	}
	h.wrapped = bytes.Clone(h.wrapped)
	h.wrapped[len(h.wrapped)-1] ^= 1
	s.link.refusals.wrap, err = refuses("a wrapped key that was changed", func() error {
		object, err := s.unwrap(h)
		if err == nil {
			return s.destroy(object)
		}
		return err
	})
	return err
}
