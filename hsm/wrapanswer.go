package hsm

import (
	"bytes"

	"github.com/miekg/pkcs11"
)

// The keys of RFC 3394 4.6, which are public: the bytes 0 to 31 wrap this one.
var (
	answerKEK = []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}
	answerKey = []byte{
		0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
		0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f,
	}
	// answerKW is what RFC 3394 4.6 makes of them.
	answerKW = []byte{
		0x28, 0xc9, 0xf4, 0x04, 0xc4, 0xb8, 0x10, 0xf4, 0xcb, 0xcc, 0xb3, 0x5c, 0xfb, 0x87, 0xf8, 0x26, 0x3f, 0x57, 0x86, 0xe2,
		0xd8, 0x0e, 0xd3, 0x26, 0xcb, 0xc7, 0xf0, 0xe7, 0x1a, 0x99, 0xf4, 0x3b, 0xfb, 0x98, 0x8b, 0x9b, 0x7a, 0x02, 0xdd, 0x21,
	}
	// answerKWP is what RFC 5649 makes of them, by OpenSSL 3.0 (aes256-wrap-pad).
	answerKWP = []byte{
		0x4a, 0x80, 0x29, 0x24, 0x30, 0x27, 0x35, 0x3b, 0x06, 0x94, 0xcf, 0x1b, 0xd8, 0xfc, 0x74, 0x5b, 0xb0, 0xce, 0x8a, 0x73,
		0x9b, 0x19, 0xb1, 0x96, 0x0b, 0x12, 0x42, 0x6d, 0x4c, 0x39, 0xcf, 0xed, 0xa9, 0x26, 0xd1, 0x03, 0xab, 0x34, 0xe9, 0xf6,
	}
)

// answersAs reports whether a mechanism wraps the known key to its answer. A
// token that does not let known keys in cannot show it, so it does not have the
// mechanism. The error is that of the token.
func (s session) answersAs(m wrapMechanism) (bool, error) {
	out, err := s.wrapKnown(m)
	if c, ok := classOf(err); ok && c == requestFault {
		return false, nil
	}
	return err == nil && bytes.Equal(out, m.answer), err
}

func (s session) wrapKnown(m wrapMechanism) ([]byte, error) {
	kek, err := s.knownKey(answerKEK, pkcs11.CKA_WRAP)
	if err != nil {
		return nil, err
	}
	defer s.destroy(kek)
	key, err := s.knownKey(answerKey, pkcs11.CKA_ENCRYPT)
	if err != nil {
		return nil, err
	}
	defer s.destroy(key)
	out := make([]byte, 2*len(m.answer)) // room for a longer answer, which is a wrong one
	n, err := s.link.module.wrapKey(s.handle, m.id, kek, key, nil, nil, out)
	return out[:n], err
}

// knownKey makes a session object of an AES key that is no secret, with one
// usage.
func (s session) knownKey(key []byte, usage uint) (pkcs11.ObjectHandle, error) {
	object, err := s.link.module.ctx.CreateObject(s.handle, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		pkcs11.NewAttribute(usage, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, key),
	})
	if err != nil {
		return 0, answered("C_CreateObject", err)
	}
	return object, s.link.isNew(object)
}
