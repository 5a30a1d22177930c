package hsm

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// A wrapping is the form in which a handle holds its key: the standard by which
// the KEK wrapped it. It is byte 1 of the handle. Any two codes differ in two
// bits or more, so that none becomes another when one bit of a handle changes.
type wrapping uint8

const (
	wrapKW  wrapping = 1 // AES-KEY-WRAP: RFC 3394, KW of NIST SP 800-38F 6.2
	wrapKWP wrapping = 2 // AES-KEY-WRAP with padding: RFC 5649, KWP of NIST SP 800-38F 6.3
	wrapGCM wrapping = 4 // AES-GCM: NIST SP 800-38D, with an IV and a tag
	inToken wrapping = 7 // none: the key is an object of the one token that it was made in; see resident.go
)

// wrappings has all of them, in the order in which they are chosen where the
// configuration names none. KW and KWP need no IV, so no fault of a random
// source can weaken them, and AES keys wrapped with them are what HSMs of other
// makers load; GCM, which breaks if an IV comes twice, is last.
var wrappings = []struct {
	code       wrapping
	name       string // in the configuration
	size       int    // of a wrapped key, in bytes
	mechanisms []wrapMechanism
}{
	{wrapKW, "aes-kw", kms.KeySize + 8, []wrapMechanism{
		{id: pkcs11.CKM_VENDOR_DEFINED | 0x2109, name: "CKM_CLOUDHSM_AES_KEY_WRAP_NO_PAD", answer: answerKW},
		{id: pkcs11.CKM_VENDOR_DEFINED | 0x170, name: "CKM_AES_KW of Luna", answer: answerKW},
		{id: pkcs11.CKM_AES_KEY_WRAP, name: "CKM_AES_KEY_WRAP"},
	}},
	{wrapKWP, "aes-kwp", kms.KeySize + 8, []wrapMechanism{
		{id: ckmAESKeyWrapKWP, name: "CKM_AES_KEY_WRAP_KWP"},
		{id: pkcs11.CKM_VENDOR_DEFINED | 0x216F, name: "CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD", answer: answerKWP},
		{id: pkcs11.CKM_VENDOR_DEFINED | 0x171, name: "CKM_AES_KWP of Luna", answer: answerKWP},
		{id: pkcs11.CKM_AES_KEY_WRAP_PAD, name: "CKM_AES_KEY_WRAP_PAD", answer: answerKWP, unlisted: true},
	}},
	{wrapGCM, "aes-gcm", ivSize + kms.KeySize + tagSize, []wrapMechanism{
		{id: pkcs11.CKM_AES_GCM, name: "CKM_AES_GCM", wraps: true},
	}},
}

// CKM_AES_KEY_WRAP_KWP of PKCS#11 v3.0 6.14 is RFC 5649. What 0x210A is,
// CKM_AES_KEY_WRAP_PAD, differs between makers.
const ckmAESKeyWrapKWP = 0x210B

// A wrapMechanism is a number by which tokens may have a wrapping.
type wrapMechanism struct {
	id   uint
	name string
	// answer, where not nil, is what the mechanism must make of known keys before
	// it is used: its number says not surely, or not to every maker, what it is.
	answer []byte
	// unlisted: some modules have it and do not list it.
	unlisted bool
	// wraps: the mechanism is one for data, too, so the list has to say that it
	// wraps keys (CKF_WRAP).
	wraps bool
}

// size returns the bytes of a key that is wrapped so, and whether there is such a
// wrapping.
func (w wrapping) size() (n int, known bool) {
	for _, known := range wrappings {
		if known.code == w {
			return known.size, true
		}
	}
	return 0, w == inToken
}

func (w wrapping) String() string {
	for _, known := range wrappings {
		if known.code == w {
			return known.name
		}
	}
	if w == inToken {
		return "residency token"
	}
	return fmt.Sprintf("wrapping %d", uint8(w))
}

// wrappingNames returns what Config.Wrapping may be.
func wrappingNames() (names []string) {
	for _, known := range wrappings {
		names = append(names, known.name)
	}
	return names
}

// A wrapMechanisms is what a link found out of its token's ways to wrap.
type wrapMechanisms struct {
	listed map[uint]bool // the mechanisms that the token lists
	chosen wrapping      // for new keys
	note   string        // if not empty: which better one is missing
	found  map[wrapping]wrapMechanism
}

// chooseWrapping finds the wrapping for new keys: what c names or, if that is
// nothing, the first that the token has. The check says what is missing.
func (s session) chooseWrapping(c Config) (Check, error) {
	var missing []string
	for _, known := range wrappings {
		if c.Wrapping != "" && c.Wrapping != known.name {
			continue
		}
		m, has, err := s.findMechanism(known.code)
		if c, ok := classOf(err); ok && !c.unsure() {
			return Check{}, err
		}
		if !has { // or the token answers with what may mean anything
			missing = append(missing, known.name)
			continue
		}
		s.link.wrap.chosen = known.code
		found := fmt.Sprintf("%s, by %s", known.name, m.name)
		if missing != nil {
			s.link.wrap.note = fmt.Sprintf("the token does not have %s, so keys are wrapped with %s", strings.Join(missing, ", "), found)
			found += "; the token does not have " + strings.Join(missing, ", ")
		}
		return Check{What: "wrapping", Found: found, OK: true}, nil
	}
	if c.Residency == residencyToken && c.Wrapping == "" {
		return Check{What: "wrapping", Found: "none: only keys that stay in the token can be used", OK: true}, nil
	}
	return Check{What: "wrapping", Found: "missing", err: kms.ErrUnsupported,
		Why: fmt.Sprintf("the token has no mechanism for %s (%s)", strings.Join(missing, ", "), strings.Join(wrappingMechanisms(c.Wrapping), ", "))}, nil
}

// wrappingMechanisms returns the names of the mechanisms for the wrapping of that
// name, or for all if it is empty.
func wrappingMechanisms(name string) (names []string) {
	for _, known := range wrappings {
		for _, m := range known.mechanisms {
			if name == "" || name == known.name {
				names = append(names, m.name)
			}
		}
	}
	return names
}

// findMechanism returns the mechanism by which the token has w, if it does. What
// it finds is kept for the link. The error is that of the token.
func (s session) findMechanism(w wrapping) (wrapMechanism, bool, error) {
	l := s.link
	l.mu.Lock()
	m, has := l.wrap.found[w]
	l.mu.Unlock()
	if has {
		return m, m.id != 0, nil
	}
	m, err := s.searchMechanism(w)
	if err != nil {
		return m, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.wrap.found == nil {
		l.wrap.found = make(map[wrapping]wrapMechanism)
	}
	l.wrap.found[w] = m
	return m, m.id != 0, nil
}

// searchMechanism returns the zero value if the token has none.
func (s session) searchMechanism(w wrapping) (wrapMechanism, error) {
	for _, known := range wrappings {
		if known.code != w {
			continue
		}
		for _, m := range known.mechanisms {
			if has, err := s.hasMechanism(m); has || err != nil {
				return m, err
			}
		}
	}
	return wrapMechanism{}, nil
}

func (s session) hasMechanism(m wrapMechanism) (bool, error) {
	if !s.link.wrap.listed[m.id] && !m.unlisted {
		return false, nil
	}
	if m.wraps {
		info, err := s.link.module.ctx.GetMechanismInfo(s.link.slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(m.id, nil)})
		if err != nil || info.Flags&pkcs11.CKF_WRAP == 0 || info.Flags&pkcs11.CKF_UNWRAP == 0 {
			return false, answered("C_GetMechanismInfo", err)
		}
	}
	if m.answer == nil {
		return true, nil
	}
	return s.answersAs(m)
}

// mechanismOf returns the mechanism for a handle that is to be loaded or made.
func (s session) mechanismOf(w wrapping) (wrapMechanism, error) {
	m, has, err := s.findMechanism(w)
	if err == nil && !has {
		err = fmt.Errorf("hsm: key handle: wrapped with %v, and the token has no mechanism for that (%s): %w", w, strings.Join(wrappingMechanisms(w.String()), ", "), kms.ErrUnsupported)
	}
	return m, err
}

// wrapKey returns the key that object is, wrapped by the KEK and in the way
// that h names: h.wrapping.size() bytes. With GCM these are an IV of 12 random
// bytes (NIST SP 800-38D 8.2.2), the ciphertext and the tag, of 16; the
// additional data is the head of h, which KW and KWP have no place for.
func (s session) wrapKey(h keyHandle, object pkcs11.ObjectHandle) ([]byte, error) {
	kek, err := s.link.kekOf(h)
	if err != nil {
		return nil, err
	}
	m, err := s.mechanismOf(h.wrapping)
	if err != nil {
		return nil, err
	}
	size, _ := h.wrapping.size()
	wrapped, iv := make([]byte, size), []byte(nil)
	out := wrapped
	if h.wrapping == wrapGCM {
		iv, out = wrapped[:ivSize], wrapped[ivSize:]
		rand.Read(iv)
	}
	given := string(iv)
	n, err := s.link.module.wrapKey(s.handle, m.id, kek.object, object, iv, h.head(), out)
	if err != nil {
		return nil, err
	}
	if n != len(out) || string(iv) != given {
		return nil, fmt.Errorf("hsm: C_WrapKey: %d bytes, not %d, or another IV than was given: %w", n, len(out), kms.ErrUnavailable)
	}
	return wrapped, nil
}

// unwrapKey makes an object of template of the wrapped key of h.
func (s session) unwrapKey(h keyHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	kek, err := s.link.kekOf(h)
	if err != nil {
		return 0, err
	}
	m, err := s.mechanismOf(h.wrapping)
	if err != nil {
		return 0, err
	}
	var parameter any
	wrapped := h.wrapped
	if h.wrapping == wrapGCM {
		gcm := pkcs11.NewGCMParams(h.wrapped[:ivSize], h.head(), tagSize*8)
		defer gcm.Free()
		parameter, wrapped = gcm, h.wrapped[ivSize:]
	}
	object, err := s.link.module.ctx.UnwrapKey(s.handle, []*pkcs11.Mechanism{pkcs11.NewMechanism(m.id, parameter)}, kek.object, wrapped, template)
	return object, answered("C_UnwrapKey", err)
}
