package hsm

import (
	"cmp"
	"crypto/sha256"
	"fmt"

	"github.com/miekg/pkcs11"
)

// A check value is by what two tokens can be seen to have the same key: the first 8
// bytes, in hex, of what the key makes of a constant. It tells nothing of the key.
const (
	checkValueSize    = 8
	checkValueMessage = "keygate check value v1"
)

// kekCheckValue returns the check value of a KEK, the SHA-256 of a known key that it
// wraps, and how it was made: two tokens that have no wrapping without an IV in common
// cannot be compared, nor one that lets no known key in. Then it is empty.
func (s session) kekCheckValue(kek pkcs11.ObjectHandle) (value, method string, err error) {
	m, w, has, err := s.steadyMechanism()
	if err != nil || !has {
		return "", "none: the token wraps neither by AES-KW nor by AES-KWP", err
	}
	known := sha256.Sum256([]byte(checkValueMessage))
	object, err := s.knownKey(known[:], pkcs11.CKA_ENCRYPT)
	if c, ok := classOf(err); ok && c == requestFault {
		return "", "none: the token lets no known key in", nil
	}
	if err != nil {
		return "", "", err
	}
	defer s.destroy(object)
	size, _ := w.size()
	wrapped := make([]byte, size)
	n, err := s.link.module.wrapKey(s.handle, m.id, kek, object, nil, nil, wrapped)
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256(wrapped[:n])
	return fmt.Sprintf("%x", sum[:checkValueSize]), fmt.Sprintf("SHA-256(%v(KEK, SHA-256(%q))), %d bytes", w, checkValueMessage, checkValueSize), nil
}

// steadyMechanism returns the first wrapping that wraps a key to the same bytes each
// time, if the token has one.
func (s session) steadyMechanism() (wrapMechanism, wrapping, bool, error) {
	m, has, err := s.findMechanism(wrapKW)
	if has || err != nil {
		return m, wrapKW, has, err
	}
	m, has, err = s.findMechanism(wrapKWP)
	return m, wrapKWP, has, err
}

// recordCheckValue returns the check value of the record key, and how it was made.
func (s session) recordCheckValue(key pkcs11.ObjectHandle) (value, method string, err error) {
	mac, err := s.mac(key, []byte(checkValueMessage))
	return fmt.Sprintf("%x", mac[:checkValueSize]), fmt.Sprintf("HMAC-SHA-256(key, %q), %d bytes", checkValueMessage, checkValueSize), err
}

func (s session) checkValues(kek, record pkcs11.ObjectHandle) (ofKEK, ofRecord string, err error) {
	if ofKEK, _, err = s.kekCheckValue(kek); err != nil {
		return "", "", err
	}
	ofRecord, _, err = s.recordCheckValue(record)
	return ofKEK, ofRecord, err
}

// replacement says how k may be replaced; see noneLeaves.
func (l *link) replacement(k *kek) string {
	switch {
	case k.form == strictForm:
		return "it can never be replaced"
	case l.extractable:
		return "not in this token, as root keys can be copied: in another one that they were copied to (keygate hsm copy)"
	}
	return "by a KEK that the security officer trusts (keygate hsm rotate)"
}

// describeKeys says of the root keys, which have been probed, by what they can be
// compared with those of another token, and how the KEKs may be replaced.
func (s session) describeKeys(c Config) []Check {
	var checks []Check
	said := func(what, found string, err error) {
		if err != nil {
			found = "not known: " + err.Error() // which is no fault of the key
		}
		checks = append(checks, Check{What: what, Found: found, OK: true})
	}
	for _, k := range s.link.keks {
		name := fmt.Sprintf("KEK %q", k.label)
		said(name+": replacement", s.link.replacement(k), nil)
		value, method, err := s.kekCheckValue(k.object)
		said(name+": check value", cmp.Or(value, method), err)
	}
	value, _, err := s.recordCheckValue(s.link.recordKey.object)
	said(fmt.Sprintf("record key %q: check value", c.RecordKey), value, err)
	others, err := s.trustedOthers()
	said("trusted keys that wrap", others, err)
	return checks
}
