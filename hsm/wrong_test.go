package hsm_test

import (
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

func TestCR14_AWrapThatIsNotTheKeyIsNotStored(t *testing.T) {
	f := openFaulty(t)
	for _, wrong := range []struct {
		name, function string
		fault          fault
	}{
		{"a bit of the wrapped key is flipped", "C_WrapKey", fault{times: forever, flip: 5}},
		{"the check is flipped", "C_Encrypt", fault{times: forever, flip: 4}},
		{"unwrapping gives no object", "C_UnwrapKey", fault{code: pkcs11.CKR_OK, times: forever}},
	} {
		t.Run(wrong.name, func(t *testing.T) {
			f.fail(wrong.function, wrong.fault)
			_, err := f.root.NewKey(t.Context(), kms.KeyID{2}, kms.Encryption)
			if err == nil {
				t.Error("a handle was returned for a key that nobody could load")
			}
			_, err = f.root.ImportKey(t.Context(), kms.KeyID{2}, kms.Encryption, make([]byte, kms.KeySize))
			if err == nil {
				t.Error("a handle was returned for an imported key that nobody could load")
			}
			f.heal()
			f.recovers()
		})
	}
}

func TestHS12_AnotherPlaintextThanWasEncryptedNeedsAnotherTag(t *testing.T) {
	f := openFaulty(t)
	f.fail("C_Encrypt", fault{times: 1, flip: 4})
	f.ciphertext = f.encrypt() // a bit of it is not what the token made
	is(t, f.decrypt(), kms.ErrCiphertext)
}
