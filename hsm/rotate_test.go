package hsm_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

const nextKEK = "keygate-kek-2"

// A ceremony is a token with a KEK, keys under it, and a second KEK.
type ceremony struct {
	f             softhsm.Fixture
	before, after hsm.Config // in which the first, and the second, is the present KEK
	cipher, mac   []byte     // handles of keys under the first
	ciphertext    []byte
	sum           [kms.MACSize]byte
}

func newCeremony(t *testing.T) *ceremony {
	t.Helper()
	c := &ceremony{f: softhsm.Token(t)}
	c.before = configOf(c.f)
	made, err := hsm.Init(t.Context(), c.before)
	ok(t, err)
	if !made.Rotatable {
		t.Fatal("Init made a KEK that cannot be replaced")
	}
	root, err := hsm.Open(t.Context(), c.before, quiet())
	ok(t, err)
	c.cipher, c.mac = newKey(t, root, kms.Encryption), newKey(t, root, kms.Authentication)
	c.ciphertext, err = root.Encrypt(t.Context(), c.cipher, []byte("plaintext"), nil)
	ok(t, err)
	c.sum, err = root.MAC(t.Context(), c.mac, []byte("message"))
	ok(t, err)
	ok(t, root.Close())
	c.before.OtherKEKs = []string{nextKEK}
	c.after = c.before
	c.after.KEK, c.after.OtherKEKs = nextKEK, []string{hsm.DefaultKEK}
	return c
}

func (c *ceremony) begin(t *testing.T) hsm.MadeKEK {
	t.Helper()
	made, err := hsm.BeginRotation(t.Context(), c.before, hsm.PIN{File: c.f.SOFile})
	ok(t, err)
	return made
}

// opens shows that handles are of the keys that were made before.
func (c *ceremony) opens(t *testing.T, root kms.Root, cipher, mac []byte) {
	t.Helper()
	got, err := root.Decrypt(t.Context(), cipher, c.ciphertext, nil)
	ok(t, err)
	sum, err := root.MAC(t.Context(), mac, []byte("message"))
	ok(t, err)
	if !bytes.Equal(got, []byte("plaintext")) || sum != c.sum {
		t.Error("it is another key")
	}
}

func TestOP10_AKEKIsReplaced(t *testing.T) {
	c := newCeremony(t)
	made := c.begin(t)
	if made.Label != nextKEK || len(made.ID) != 16 || made.Token.Label != c.f.Label {
		t.Errorf("made is %+v", made)
	}
	// First every gateway learns of the new KEK, and nothing uses it.
	one := hsmtest.Open(t, c.before)
	_, changed, err := one.Rewrap(t.Context(), c.cipher)
	ok(t, err)
	if changed {
		t.Error("a key that the present KEK wraps is wrapped again")
	}
	two := hsmtest.Open(t, c.after)
	var handles [][]byte
	for _, old := range [][]byte{c.cipher, c.mac} {
		name, present, err := two.WrappedBy(t.Context(), old)
		ok(t, err)
		if name != hsm.DefaultKEK || present {
			t.Errorf("the old handle is wrapped by %s, the present KEK: %v", name, present)
		}
		next, changed, err := two.Rewrap(t.Context(), old)
		ok(t, err)
		if !changed || bytes.Equal(next, old) {
			t.Fatal("the key was not wrapped again")
		}
		name, present, err = two.WrappedBy(t.Context(), next)
		ok(t, err)
		if name != nextKEK || !present {
			t.Errorf("the new handle is wrapped by %s, the present KEK: %v", name, present)
		}
		again, changed, err := two.Rewrap(t.Context(), next)
		ok(t, err)
		if changed || !bytes.Equal(again, next) {
			t.Error("it is wrapped once more")
		}
		handles = append(handles, next)
	}
	for _, root := range []kms.Root{one, two} {
		c.opens(t, root, c.cipher, c.mac)
		c.opens(t, root, handles[0], handles[1])
	}
	// In the end the old KEK is not needed.
	last := c.after
	last.OtherKEKs = nil
	alone := hsmtest.Open(t, last)
	c.opens(t, alone, handles[0], handles[1])
	_, err = alone.Decrypt(t.Context(), c.cipher, c.ciphertext, nil)
	is(t, err, kms.ErrCorrupt)
	says(t, err, "which is neither kek nor one of other_keks")
	name, present, err := alone.WrappedBy(t.Context(), c.cipher)
	ok(t, err)
	if present {
		t.Errorf("an unknown KEK, %s, is the present one", name)
	}
	says(t, errorText(name), "neither kek nor")
}

type errorText string

func (e errorText) Error() string { return string(e) }

func TestAKEKCanBeReplacedAgain(t *testing.T) {
	c := newCeremony(t)
	c.begin(t)
	third := c.after
	third.OtherKEKs = []string{hsm.DefaultKEK, "third"}
	_, err := hsm.BeginRotation(t.Context(), third, hsm.PIN{File: c.f.SOFile})
	ok(t, err)
	two := hsmtest.Open(t, c.after)
	handle, _, err := two.Rewrap(t.Context(), c.cipher)
	ok(t, err)
	third.KEK, third.OtherKEKs = "third", []string{nextKEK}
	root := hsmtest.Open(t, third)
	cipher, changed, err := root.Rewrap(t.Context(), handle)
	ok(t, err)
	if !changed {
		t.Error("nothing was to do")
	}
	got, err := root.Decrypt(t.Context(), cipher, c.ciphertext, nil)
	ok(t, err)
	if string(got) != "plaintext" {
		t.Errorf("plaintext is %q", got)
	}
}

func TestAStrictKEKIsNeverReplaced(t *testing.T) {
	f := softhsm.Token(t)
	cfg := configOf(f)
	made, err := hsm.InitWith(t.Context(), cfg, hsm.InitOptions{Strict: true})
	ok(t, err)
	if made.Rotatable {
		t.Error("the KEK can be replaced")
	}
	root, err := hsm.Open(t.Context(), cfg, quiet())
	ok(t, err)
	handle := newKey(t, root, kms.Encryption)
	ok(t, root.Close())
	cfg.OtherKEKs = []string{nextKEK}
	_, err = hsm.BeginRotation(t.Context(), cfg, hsm.PIN{File: f.SOFile})
	ok(t, err)
	cfg.KEK, cfg.OtherKEKs = nextKEK, []string{hsm.DefaultKEK}
	root = hsmtest.Open(t, cfg)
	_, _, err = root.Rewrap(t.Context(), handle)
	is(t, err, kms.ErrUnsupported)
	says(t, err, "cannot be wrapped again")
	_, err = root.Encrypt(t.Context(), handle, nil, nil) // and goes on working
	ok(t, err)
}

func TestAKEKWithoutTrustWrapsNothingOfAnother(t *testing.T) {
	c := newCeremony(t)
	as(t, c.f, func(r raw) {
		r.generate(pkcs11.CKM_AES_KEY_GEN, flags(append(rootBase(nextKEK, "23456789"), keySize, pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, hsm.UnwrapTemplate())), goodKEK))
	})
	root := hsmtest.Open(t, c.after)
	_, _, err := root.Rewrap(t.Context(), c.cipher)
	is(t, err, kms.ErrUnsupported)
	says(t, err, "CKA_TRUSTED")
}

func TestBeginRotationIsRefused(t *testing.T) {
	c := newCeremony(t)
	wrong := hsm.PIN{File: c.f.PINFile} // the user's
	_, err := hsm.BeginRotation(t.Context(), c.before, wrong)
	is(t, err, hsm.ErrPIN)
	none := c.before
	none.OtherKEKs = nil
	_, err = hsm.BeginRotation(t.Context(), none, hsm.PIN{File: c.f.SOFile})
	says(t, err, "name a new one")
	two := c.before
	two.OtherKEKs = []string{"x", "y"}
	_, err = hsm.BeginRotation(t.Context(), two, hsm.PIN{File: c.f.SOFile})
	is(t, err, kms.ErrDenied)
	c.begin(t)
	_, err = hsm.BeginRotation(t.Context(), c.before, hsm.PIN{File: c.f.SOFile})
	says(t, err, "has every KEK")
}

// TestHS18_AStoredKeyDoesNotLeaveWithThePINAlone is what somebody can do who has the PIN
// of the user, the key store and no PIN of the security officer, before, while and after
// a KEK is replaced.
func TestHS18_AStoredKeyDoesNotLeaveWithThePINAlone(t *testing.T) {
	c := newCeremony(t)
	c.begin(t)
	blob := wrappedOf(c.cipher)
	kw := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}
	as(t, c.f, func(r raw) {
		old, next := r.find(hsm.DefaultKEK), r.find(nextKEK)
		// All that the template of the KEK lets him unwrap a key as.
		victim, err := r.UnwrapKey(r.session, kw, old, blob, r.victimTemplate(nil))
		ok(t, err)
		for name, set := range map[string]map[uint]bool{
			"readable":          {pkcs11.CKA_SENSITIVE: false},
			"for any to wrap":   {pkcs11.CKA_WRAP_WITH_TRUSTED: false},
			"to derive from":    {pkcs11.CKA_DERIVE: true},
			"to be changed":     {pkcs11.CKA_MODIFIABLE: true},
			"to be copied":      {pkcs11.CKA_COPYABLE: true},
			"for all of these:": {pkcs11.CKA_SENSITIVE: false, pkcs11.CKA_WRAP_WITH_TRUSTED: false, pkcs11.CKA_DERIVE: true, pkcs11.CKA_MODIFIABLE: true, pkcs11.CKA_COPYABLE: true},
		} {
			if _, err := r.UnwrapKey(r.session, kw, old, blob, r.victimTemplate(set)); err == nil {
				t.Errorf("a stored key was unwrapped %s", name)
			}
		}
		// A wrapping key of his own, and one that claims to be trusted.
		own := r.generate(pkcs11.CKM_AES_KEY_GEN, flags([]*pkcs11.Attribute{keySize}, map[uint]bool{pkcs11.CKA_WRAP: true, pkcs11.CKA_DECRYPT: true}))
		if _, err := r.clulow(own, victim); err == nil {
			t.Error("the victim was wrapped by an untrusted key")
		}
		if err := r.SetAttributeValue(r.session, own, flags(nil, map[uint]bool{pkcs11.CKA_TRUSTED: true})); err == nil {
			t.Error("the user can make a key trusted")
		}
		claims := flags([]*pkcs11.Attribute{keySize}, map[uint]bool{pkcs11.CKA_WRAP: true, pkcs11.CKA_DECRYPT: true, pkcs11.CKA_TRUSTED: true})
		if _, err := r.GenerateKey(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, claims); err == nil {
			t.Error("the user can generate a trusted key")
		}
		known := flags([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, make([]byte, 32))}, map[uint]bool{pkcs11.CKA_WRAP: true, pkcs11.CKA_TRUSTED: true})
		if _, err := r.CreateObject(r.session, known); err == nil {
			t.Error("the user can import a trusted key")
		}
		// An RSA key whose private half he has, trusted or not.
		for _, trusted := range []bool{true, false} {
			public := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_WRAP, true), pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})}
			if trusted {
				public = append(public, pkcs11.NewAttribute(pkcs11.CKA_TRUSTED, true))
			}
			key, _, err := r.GenerateKeyPair(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)}, public, flags(nil, map[uint]bool{pkcs11.CKA_UNWRAP: true, pkcs11.CKA_DECRYPT: true}))
			if trusted {
				if err == nil {
					t.Error("the user can generate a trusted RSA key")
				}
				continue
			}
			ok(t, err)
			oaep := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil))}
			if _, err := r.WrapKey(r.session, oaep, key, victim); err == nil {
				t.Error("the victim was wrapped by an untrusted RSA key")
			}
		}
		// The victim out of trusted control.
		for _, attribute := range []uint{pkcs11.CKA_WRAP_WITH_TRUSTED, pkcs11.CKA_SENSITIVE} {
			change := flags(nil, map[uint]bool{attribute: false})
			if err := r.SetAttributeValue(r.session, victim, change); err == nil {
				t.Errorf("attribute %x of the victim was changed", attribute)
			}
			if _, err := r.CopyObject(r.session, victim, change); err == nil {
				t.Errorf("a copy without attribute %x was made", attribute)
			}
		}
		// The new KEK, which is trusted: it wraps the victim, as it is to, and gives
		// nothing away.
		if key, err := r.clulow(next, victim); err == nil && r.opens(victim, key) {
			t.Error("the attack works on the trusted KEK")
		}
		for _, attribute := range []uint{pkcs11.CKA_DECRYPT, pkcs11.CKA_ENCRYPT, pkcs11.CKA_DERIVE, pkcs11.CKA_MODIFIABLE, pkcs11.CKA_EXTRACTABLE} {
			change := flags(nil, map[uint]bool{attribute: true})
			if err := r.SetAttributeValue(r.session, next, change); err == nil {
				t.Errorf("attribute %x of the trusted KEK was changed", attribute)
			}
			if _, err := r.CopyObject(r.session, next, change); err == nil {
				t.Errorf("a copy of the trusted KEK with attribute %x was made", attribute)
			}
		}
		if _, err := r.CopyObject(r.session, next, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_UNWRAP_TEMPLATE, []byte{})}); err == nil {
			t.Error("a copy of the trusted KEK without an unwrap template was made")
		}
	})
}

// TestTheSecurityOfficerAndTheUserTogetherCan shows that the test above tries what would
// work if he had the security officer's PIN: dual control, not none.
func TestTheSecurityOfficerAndTheUserTogetherCan(t *testing.T) {
	c := newCeremony(t)
	kw := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}
	as(t, c.f, func(r raw) {
		ok(t, r.Logout(r.session))
		ok(t, r.Login(r.session, pkcs11.CKU_SO, c.f.SOPIN))
		own := r.generate(pkcs11.CKM_AES_KEY_GEN, flags([]*pkcs11.Attribute{keySize}, map[uint]bool{pkcs11.CKA_PRIVATE: false, pkcs11.CKA_WRAP: true, pkcs11.CKA_DECRYPT: true, pkcs11.CKA_TRUSTED: true}))
		ok(t, r.Logout(r.session))
		ok(t, r.Login(r.session, pkcs11.CKU_USER, c.f.PIN))
		victim, err := r.UnwrapKey(r.session, kw, r.find(hsm.DefaultKEK), wrappedOf(c.cipher), r.victimTemplate(nil))
		ok(t, err)
		key, err := r.clulow(own, victim)
		ok(t, err)
		if !r.opens(victim, key) {
			t.Error("the attack gives another key: the test is wrong")
		}
	})
}

// wrappedOf returns the wrapped key in a handle.
func wrappedOf(handle []byte) []byte { return handle[29 : 29+40] }

// victimTemplate is the template by which a stored key is unwrapped to be wrapped
// again, with other flags.
func (r raw) victimTemplate(set map[uint]bool) []*pkcs11.Attribute {
	all := but(map[uint]bool{
		pkcs11.CKA_TOKEN: false, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: true, pkcs11.CKA_WRAP_WITH_TRUSTED: true,
		pkcs11.CKA_DERIVE: false, pkcs11.CKA_COPYABLE: false, pkcs11.CKA_ENCRYPT: true,
	}, set)
	last := all[pkcs11.CKA_MODIFIABLE]
	delete(all, pkcs11.CKA_MODIFIABLE)
	return append(flags([]*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES)}, all),
		pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, last)) // SoftHSM refuses what comes after it
}

// A fault while the token is tried must not decide that its KEK can never be replaced.
// What a KEK is cannot be changed later: a fault must not make another one of it.
func TestInitMakesNoStrictKEKForAFault(t *testing.T) {
	s, cfg := shimmed(t)
	n := 0
	for _, function := range []string{"C_GenerateKey", "C_WrapKey", "C_UnwrapKey", "C_EncryptInit"} {
		for _, code := range []uint{pkcs11.CKR_ARGUMENTS_BAD, pkcs11.CKR_FUNCTION_FAILED} {
			for _, f := range []fault{{times: 1}, {times: 3}, {times: 1, skip: 1}, {times: 2, skip: 1}, {times: 1, skip: 4}} {
				n++
				cfg.KEK, cfg.RecordKey, f.code = fmt.Sprint("kek-", n), fmt.Sprint("record-", n), code
				s.fail(function, f)
				made, err := hsm.Init(t.Context(), cfg)
				if err == nil && !made.Rotatable {
					t.Errorf("%s %+v: the KEK can never be replaced, and nothing was said", function, f)
				}
				s.heal()
				made, err = hsm.Init(t.Context(), cfg)
				if err != nil || !made.Rotatable {
					t.Errorf("%s %+v: the second run: %+v, %v", function, f, made, err)
				}
			}
		}
	}
}

func TestAKeyThatNoKEKWrapsIsNotWrappedAgain(t *testing.T) {
	c := newCeremony(t)
	c.begin(t)
	cfg := c.after
	cfg.Residency = "token"
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	next, changed, err := root.Rewrap(t.Context(), handle)
	ok(t, err)
	if changed || !bytes.Equal(next, handle) {
		t.Error("a key in the token was wrapped")
	}
	name, present, err := root.WrappedBy(t.Context(), handle)
	ok(t, err)
	if name != "" || present {
		t.Errorf("a key in the token is wrapped by %q", name)
	}
}
