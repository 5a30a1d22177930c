package hsm_test

import (
	"os"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// copyableToken returns a token with root keys that can be copied, and an empty one.
func copyableToken(t *testing.T) (f softhsm.Fixture, from, to hsm.Config) {
	t.Helper()
	f = softhsm.Token(t)
	from, to = configOf(f), hsmtest.Empty(t)
	from.Copyable, to.Copyable = "allowed", "allowed"
	_, err := hsm.InitWith(t.Context(), from, hsm.InitOptions{Copyable: true})
	ok(t, err)
	return f, from, to
}

func TestRootKeysAreCopiedToAnotherToken(t *testing.T) {
	f, from, to := copyableToken(t)
	source, err := hsm.Open(t.Context(), from, quiet())
	ok(t, err)
	cipher, mac := newKey(t, source, kms.Encryption), newKey(t, source, kms.Authentication)
	ciphertext, err := source.Encrypt(t.Context(), cipher, []byte("plaintext"), nil)
	ok(t, err)
	sum, err := source.MAC(t.Context(), mac, []byte("message"))
	ok(t, err)
	record, err := source.MAC(t.Context(), nil, []byte("message"))
	ok(t, err)
	ok(t, source.Close())

	copied, err := hsm.CopyRootKeys(t.Context(), from, to, hsm.PIN{File: f.SOFile})
	ok(t, err)
	if copied.FromFingerprint != copied.ToFingerprint || len(copied.ToFingerprint) != 64 || copied.From.Label != f.Label || copied.To.Label != to.Token {
		t.Errorf("copied is %+v", copied)
	}
	for _, cfg := range []hsm.Config{from, to} {
		if got := found(t, cfg, "KEK ", ": check value"); got != copied.KEK {
			t.Errorf("the check value of the KEK is %s, not %s", got, copied.KEK)
		}
		if got := found(t, cfg, "record key ", ": check value"); got != copied.RecordKey {
			t.Errorf("the check value of the record key is %s, not %s", got, copied.RecordKey)
		}
	}
	// What one token has wrapped the other loads, also as one group.
	group := hsm.Config{Copyable: "allowed", Tokens: []hsm.TokenConfig{
		{Module: from.Module, Token: from.Token, PIN: &from.PIN}, {Module: to.Module, Token: to.Token, PIN: &to.PIN},
	}}
	for _, cfg := range []hsm.Config{to, group} {
		root := hsmtest.Open(t, cfg)
		got, err := root.Decrypt(t.Context(), cipher, ciphertext, nil)
		ok(t, err)
		again, err := root.MAC(t.Context(), mac, []byte("message"))
		ok(t, err)
		records, err := root.MAC(t.Context(), nil, []byte("message"))
		ok(t, err)
		if string(got) != "plaintext" || again != sum || records != record {
			t.Error("they are other keys")
		}
	}
	says(t, errorText(found(t, from, "KEK ", "CKA_EXTRACTABLE")), "copyable under the security officer's control")
	says(t, errorText(found(t, to, "KEK ", "CKA_LOCAL")), "made elsewhere")
	if got := found(t, to, "KEK ", "CKA_EXTRACTABLE"); got != "false" {
		t.Errorf("the copy can leave its token: %s", got)
	}
	if got := found(t, from, "trusted keys", ""); got != "none but KEKs" {
		t.Errorf("trusted keys that wrap: %s", got)
	}
}

func TestCopyableRootKeysAreRefusedUnlessAllowed(t *testing.T) {
	f, from, to := copyableToken(t)
	_, err := hsm.CopyRootKeys(t.Context(), from, to, hsm.PIN{File: f.SOFile})
	ok(t, err)
	from.Copyable, to.Copyable = "", ""
	err = refused(t, from)
	says(t, err, "CKA_EXTRACTABLE")
	says(t, err, "CKA_NEVER_EXTRACTABLE")
	err = refused(t, to)
	says(t, err, "CKA_LOCAL")
	_, err = hsm.InitWith(t.Context(), hsmtest.Empty(t), hsm.InitOptions{Copyable: true})
	is(t, err, kms.ErrDenied)
}

func TestCopyRefuses(t *testing.T) {
	f, from, to := copyableToken(t)
	officer := hsm.PIN{File: f.SOFile}
	// Keys that can never leave.
	strict := hsmtest.Config(t)
	strict.Copyable = "allowed"
	_, err := hsm.CopyRootKeys(t.Context(), strict, to, officer)
	is(t, err, kms.ErrUnsupported)
	says(t, err, "never to leave its token")
	// A destination that has keys.
	_, err = hsm.CopyRootKeys(t.Context(), from, strict, officer)
	is(t, err, kms.ErrDenied)
	// Another PIN than the officer's.
	_, err = hsm.CopyRootKeys(t.Context(), from, to, hsm.PIN{File: f.PINFile})
	is(t, err, hsm.ErrPIN)
	says(t, refused(t, to), "no secret key") // and it is still empty
	// A KEK that would be trusted to wrap them.
	from.OtherKEKs = []string{nextKEK}
	_, err = hsm.BeginRotation(t.Context(), from, officer)
	is(t, err, kms.ErrUnsupported)
	says(t, err, "can be copied")
	as(t, f, func(r raw) {
		ok(t, r.FindObjectsInit(r.session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nextKEK)}))
		found, _, err := r.FindObjects(r.session, 1)
		ok(t, err)
		if len(found) > 0 {
			t.Error("it was made all the same")
		}
	})
}

// A KEK that is trusted could wrap one that can be copied, and whoever has the PIN
// could unwrap that again as a key that decrypts.
func TestACopyableKEKBesideATrustedOneIsRefused(t *testing.T) {
	c := newCeremony(t)
	c.begin(t)
	as(t, c.f, func(r raw) {
		copyable := but(goodKEK, map[uint]bool{pkcs11.CKA_EXTRACTABLE: true, pkcs11.CKA_WRAP_WITH_TRUSTED: true})
		r.generate(pkcs11.CKM_AES_KEY_GEN, flags(append(rootBase("copyable", "34567890"), keySize, pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, hsm.UnwrapTemplate())), copyable))
	})
	cfg := c.before
	cfg.Copyable, cfg.OtherKEKs = "allowed", []string{"copyable"} // also if the trusted one is not named
	says(t, refused(t, cfg), "copyable keys must be in a token without one")
	cfg.OtherKEKs = nil
	hsmtest.Open(t, cfg)
}

func TestHS18_ACopyableRootKeyDoesNotLeaveWithThePINAlone(t *testing.T) {
	f, from, to := copyableToken(t)
	_, err := hsm.CopyRootKeys(t.Context(), from, to, hsm.PIN{File: f.SOFile})
	ok(t, err)
	as(t, f, func(r raw) {
		own := r.generate(pkcs11.CKM_AES_KEY_GEN, flags([]*pkcs11.Attribute{keySize}, map[uint]bool{pkcs11.CKA_WRAP: true, pkcs11.CKA_DECRYPT: true}))
		pair, _, err := r.GenerateKeyPair(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)},
			[]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_WRAP, true), pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})},
			flags(nil, map[uint]bool{pkcs11.CKA_UNWRAP: true, pkcs11.CKA_DECRYPT: true}))
		ok(t, err)
		oaep := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil))}
		kw := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}
		for _, label := range []string{hsm.DefaultKEK, hsm.DefaultRecordKey} {
			key := r.find(label)
			for name, by := range map[string]pkcs11.ObjectHandle{"a key of his own": own, "the KEK": r.find(hsm.DefaultKEK)} {
				if _, err := r.WrapKey(r.session, kw, by, key); err == nil {
					t.Errorf("%s was wrapped by %s", label, name)
				}
			}
			if _, err := r.WrapKey(r.session, oaep, pair, key); err == nil {
				t.Errorf("%s was wrapped by an RSA key of his own", label)
			}
			if _, err := r.CopyObject(r.session, key, flags(nil, map[uint]bool{pkcs11.CKA_TOKEN: false, pkcs11.CKA_WRAP_WITH_TRUSTED: false})); err == nil {
				t.Errorf("a copy of %s that any key can wrap was made", label)
			}
			if err := r.SetAttributeValue(r.session, key, flags(nil, map[uint]bool{pkcs11.CKA_WRAP_WITH_TRUSTED: false})); err == nil {
				t.Errorf("%s is out of trusted control", label)
			}
		}
	})
}

// Tokens of one root must have all KEKs in common, not only the present one.
func TestTokensWithDifferentOtherKEKsAreNoGroup(t *testing.T) {
	f, from, to := copyableToken(t)
	_, err := hsm.CopyRootKeys(t.Context(), from, to, hsm.PIN{File: f.SOFile})
	ok(t, err)
	pin, err := os.ReadFile(to.PIN.File)
	ok(t, err)
	for _, token := range []softhsm.Fixture{f, {Module: to.Module, Label: to.Token, PIN: strings.TrimSpace(string(pin))}} {
		as(t, token, func(r raw) { // of the same label and id, as a copy would be
			r.generate(pkcs11.CKM_AES_KEY_GEN, flags(append(rootBase(nextKEK, "45678901"), keySize, pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, hsm.UnwrapTemplate())), goodKEK))
		})
	}
	group := hsm.Config{Copyable: "allowed", Tokens: []hsm.TokenConfig{
		{Module: from.Module, Token: from.Token, PIN: &from.PIN}, {Module: to.Module, Token: to.Token, PIN: &to.PIN},
	}}
	hsmtest.Open(t, group)
	group.OtherKEKs = []string{nextKEK}
	_, err = hsm.Open(t.Context(), group, quiet())
	is(t, err, kms.ErrDenied)
	says(t, err, "another KEK")
}

// A copy that ends between the two keys is taken up, by a source that has the same KEK.
func TestACopyThatWasEndedIsTakenUp(t *testing.T) {
	f, from, to := copyableToken(t)
	officer := hsm.PIN{File: f.SOFile}
	s, to := shimBefore(t, f, softhsm.CopyOfModule(t, f), to)
	// The destination unwraps one key to find the hash, two to compare, and two to keep.
	s.fail("C_UnwrapKey", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 1, skip: 4})
	_, err := hsm.CopyRootKeys(t.Context(), from, to, officer)
	is(t, err, kms.ErrUnavailable)
	says(t, err, "the record key was not")
	says(t, refused(t, to), "no secret key")

	other, another, _ := copyableToken(t)
	_, err = hsm.CopyRootKeys(t.Context(), another, to, hsm.PIN{File: other.SOFile})
	is(t, err, kms.ErrDenied)
	says(t, err, "the destination has a key")

	copied, err := hsm.CopyRootKeys(t.Context(), from, to, officer)
	ok(t, err)
	if got := found(t, to, "KEK ", ": check value"); got != copied.KEK || got != found(t, from, "KEK ", ": check value") {
		t.Errorf("the check value of the KEK is %s, not %s", got, copied.KEK)
	}
	_, err = hsm.CopyRootKeys(t.Context(), from, to, officer)
	says(t, err, "the destination has a key")
}
