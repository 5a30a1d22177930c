package hsm

import (
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
// wraps, and the wrapping: two tokens that have no wrapping without an IV in common
// cannot be compared.
func (s session) kekCheckValue(kek pkcs11.ObjectHandle) (string, error) {
	m, w, err := s.steadyMechanism()
	if err != nil {
		return "", err
	}
	known := sha256.Sum256([]byte(checkValueMessage))
	object, err := s.knownKey(known[:], pkcs11.CKA_ENCRYPT)
	if err != nil {
		return "", err
	}
	defer s.destroy(object)
	size, _ := w.size()
	wrapped := make([]byte, size)
	n, err := s.link.module.wrapKey(s.handle, m.id, kek, object, nil, nil, wrapped)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(wrapped[:n])
	return fmt.Sprintf("%x (%v)", sum[:checkValueSize], w), nil
}

// steadyMechanism returns the first wrapping that wraps a key to the same bytes each
// time.
func (s session) steadyMechanism() (wrapMechanism, wrapping, error) {
	m, has, err := s.findMechanism(wrapKW)
	if has || err != nil {
		return m, wrapKW, err
	}
	m, err = s.mechanismOf(wrapKWP)
	return m, wrapKWP, err
}

// recordCheckValue returns the check value of the record key.
func (s session) recordCheckValue(key pkcs11.ObjectHandle) (string, error) {
	mac, err := s.mac(key, []byte(checkValueMessage))
	return fmt.Sprintf("%x", mac[:checkValueSize]), err
}

func (s session) checkValues(kek, record pkcs11.ObjectHandle) (ofKEK, ofRecord string, err error) {
	if ofKEK, err = s.kekCheckValue(kek); err != nil {
		return "", "", err
	}
	ofRecord, err = s.recordCheckValue(record)
	return ofKEK, ofRecord, err
}

// describeKeys says of the root keys, which have been probed, by what they can be
// compared with those of another token, and how the KEKs may end.
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
		end := "it can never be replaced"
		if k.form == rotatableForm {
			end = "it can be replaced by a KEK that the security officer trusts (keygate hsm rotate)"
		}
		said(name+": end", end, nil)
		value, err := s.kekCheckValue(k.object)
		said(name+": check value", value, err)
	}
	value, err := s.recordCheckValue(s.link.recordKey.object)
	said(fmt.Sprintf("record key %q: check value", c.RecordKey), value, err)
	others, err := s.trustedOthers()
	said("trusted keys that wrap", others, err)
	return checks
}
