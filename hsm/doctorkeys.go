package hsm

import (
	"encoding/hex"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// A ResidentKey is a master key that is an object of the token (residency: token).
type ResidentKey struct {
	ID     string `json:"id"`     // the key id, which "keygate key info" shows of a named key
	Object string `json:"object"` // the object's CKA_ID, in hex
}

// maxResidents is how many of them are reported.
const maxResidents = 1 << 16

// residentKeys returns the master keys in the token: what has a label and an id
// as they are given. One of a key id that no record has belongs to nobody.
func (s session) residentKeys() ([]ResidentKey, error) {
	found, err := s.find([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
	}, maxResidents)
	if err != nil {
		return nil, err
	}
	var keys []ResidentKey
	for _, object := range found {
		id, err := s.attribute(object, pkcs11.CKA_ID)
		if err != nil {
			return nil, err
		}
		var h keyHandle
		if len(id) != len(h.id)+len(h.kek) {
			continue
		}
		h.id = kms.KeyID(id[:len(h.id)])
		label, err := s.attribute(object, pkcs11.CKA_LABEL)
		if err != nil {
			return nil, err
		}
		if string(label) == h.objectLabel() {
			keys = append(keys, ResidentKey{ID: h.id.String(), Object: hex.EncodeToString(id)})
		}
	}
	return keys, nil
}
