package hsm_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
	"github.com/keygate/keygate/softhsm/nss"
)

const inToken = 7 // byte 1 of a handle

func TestRootWithKeysInTheToken(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root {
		cfg := hsmtest.Config(t)
		cfg.Residency = "token"
		cfg.Timeout = 10 * time.Second // 32 goroutines make keys, one at a time
		return hsmtest.Open(t, cfg)
	})
}

// residentShim returns a shim before a token in which keys are to stay.
func residentShim(t *testing.T) (*shim, hsm.Config) {
	s, cfg := shimmed(t)
	cfg.Residency = "token"
	return s, cfg
}

// residents returns the CKA_IDs, in hex, of the master keys in the token.
func residents(t *testing.T, cfg hsm.Config) []string {
	t.Helper()
	report, err := hsm.Doctor(t.Context(), cfg)
	for range 3 {
		if err == nil {
			break
		}
		report, err = hsm.Doctor(t.Context(), cfg) // one was destroyed while it looked
	}
	ok(t, err)
	var all []string
	for _, k := range report.Keys {
		all = append(all, k.Object)
	}
	return all
}

func are(t *testing.T, got []string, handles ...[]byte) {
	t.Helper()
	want := map[string]bool{}
	for _, h := range handles {
		want[objectOf(h)] = true
	}
	for _, id := range got {
		if !want[id] {
			t.Errorf("the token has a key %s that nobody has", id)
		}
		delete(want, id)
	}
	for id := range want {
		t.Errorf("the token has no key %s", id)
	}
}

// objectOf returns the CKA_ID, in hex, of the key of a handle.
func objectOf(handle []byte) string { return hex.EncodeToString(handle[3:27]) }

func TestKeysInTheTokenCannotLeaveIt(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.Residency = "token"
	r := hsmtest.Open(t, cfg)
	made := newKey(t, r, kms.Encryption)
	imported, err := r.ImportKey(t.Context(), kms.KeyID{2}, kms.Encryption, bytes.Repeat([]byte{3}, kms.KeySize))
	ok(t, err)
	if made[1] != inToken || imported[1] != inToken {
		t.Errorf("the handles have wrapping %d and %d", made[1], imported[1])
	}
	are(t, residents(t, cfg), made, imported)
	ok(t, r.OnSession(t.Context(), func(c hsm.Calls) {
		for i, handle := range [][]byte{made, imported} {
			ok(t, c.FindObjectsInit(c.Session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, handle[3:27])}))
			found, _, err := c.FindObjects(c.Session, 2)
			ok(t, err)
			ok(t, c.FindObjectsFinal(c.Session))
			if len(found) != 1 {
				t.Fatalf("%d objects", len(found))
			}
			for attribute, want := range map[uint]bool{
				pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false,
				pkcs11.CKA_ENCRYPT: true, pkcs11.CKA_DECRYPT: true, pkcs11.CKA_WRAP: false, pkcs11.CKA_UNWRAP: false, pkcs11.CKA_SIGN: false,
				pkcs11.CKA_DERIVE: false, pkcs11.CKA_MODIFIABLE: false, pkcs11.CKA_COPYABLE: false, pkcs11.CKA_NEVER_EXTRACTABLE: i == 0,
			} {
				got, err := c.GetAttributeValue(c.Session, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(attribute, nil)})
				ok(t, err)
				if (got[0].Value[0] != 0) != want {
					t.Errorf("key %d: attribute 0x%x is %v", i, attribute, got[0].Value)
				}
			}
			if _, err := c.GetAttributeValue(c.Session, found[0], []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)}); err == nil {
				t.Errorf("key %d can be read", i)
			}
		}
	}))
}

func TestKeysOfEitherResidencyAreUsedWhateverIsChosen(t *testing.T) {
	cfg := hsmtest.Config(t)
	wrapped := newKey(t, hsmtest.Open(t, cfg), kms.Encryption)
	cfg.Residency = "token"
	resident := newKey(t, hsmtest.Open(t, cfg), kms.Encryption)
	for _, residency := range []string{"wrapped", "token"} {
		cfg.Residency = residency
		r := hsmtest.Open(t, cfg)
		for _, handle := range [][]byte{wrapped, resident} {
			ciphertext, err := r.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
			ok(t, err)
			_, err = r.Decrypt(t.Context(), handle, ciphertext, nil)
			ok(t, err)
		}
	}
	cfg.Residency = "wrapped" // whose sessions cannot write
	ok(t, hsmtest.Open(t, cfg).DestroyKey(t.Context(), resident))
	are(t, residents(t, cfg))
}

func TestDestroyTakesTheOneKeyOutOfTheToken(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.Residency = "token"
	r, other := hsmtest.Open(t, cfg), hsmtest.Open(t, cfg)
	id := kms.KeyID{9} // the keys of one name have one id
	encryption, err := r.NewKey(t.Context(), id, kms.Encryption)
	ok(t, err)
	one, err := r.NewKey(t.Context(), id, kms.Authentication)
	ok(t, err)
	two, err := r.NewKey(t.Context(), id, kms.Authentication)
	ok(t, err)
	_, err = other.Encrypt(t.Context(), encryption, nil, nil) // it is loaded there
	ok(t, err)
	ok(t, r.DestroyKey(t.Context(), encryption))
	ok(t, r.DestroyKey(t.Context(), one))
	are(t, residents(t, cfg), two)
	for _, root := range []*hsm.Root{r, other} {
		_, err = root.Encrypt(t.Context(), encryption, nil, nil)
		is(t, err, kms.ErrCorrupt)
		says(t, err, "has no key")
		_, err = root.MAC(t.Context(), two, nil)
		ok(t, err)
	}
}

func TestEvictionLeavesKeysInTheToken(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.Residency, cfg.Keys = "token", 1
	r := hsmtest.Open(t, cfg)
	handles := [][]byte{newKey(t, r, kms.Encryption), newKey(t, r, kms.Encryption), newKey(t, r, kms.Encryption)}
	for range 3 {
		for _, handle := range handles {
			_, err := r.Encrypt(t.Context(), handle, nil, nil)
			ok(t, err)
		}
	}
	are(t, residents(t, cfg), handles...)
}

// Whatever fails while a key is made: what is left in the token is the key that
// was returned, or none.
func TestHS01_NoKeyIsLeftInTheTokenAfterAFault(t *testing.T) {
	s, cfg := residentShim(t)
	r := hsmtest.Open(t, cfg)
	var handles [][]byte
	for _, function := range []string{"C_GenerateKey", "C_GetAttributeValue", "C_EncryptInit", "C_Encrypt", "C_FindObjects", "C_Decrypt"} {
		for _, code := range []uint{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_GENERAL_ERROR} {
			for _, times := range []int{1, 4} {
				s.fail(function, fault{code: code, times: times, after: true})
				handle, err := r.NewKey(t.Context(), kms.KeyID{byte(len(handles))}, kms.Encryption)
				s.heal()
				if err == nil {
					handles = append(handles, handle)
				} else if !errors.Is(err, kms.ErrUnavailable) {
					t.Errorf("%s 0x%x: error is %v", function, code, err)
				}
			}
		}
	}
	if len(handles) == 0 {
		t.Fatal("no key was made")
	}
	waitFor(t, func() bool { return len(residents(t, cfg)) <= len(handles) })
	are(t, residents(t, cfg), handles...)
}

func TestHS01_AnImportedKeyIsNotLeftInTheTokenAfterAFault(t *testing.T) {
	s, cfg := residentShim(t)
	r := hsmtest.Open(t, cfg)
	s.fail("C_CreateObject", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 1, after: true})
	handle, err := r.ImportKey(t.Context(), kms.KeyID{1}, kms.Authentication, make([]byte, kms.KeySize))
	ok(t, err)
	s.fail("C_CreateObject", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 9, after: true})
	_, err = r.ImportKey(t.Context(), kms.KeyID{2}, kms.Authentication, make([]byte, kms.KeySize))
	is(t, err, kms.ErrUnavailable)
	s.heal()
	waitFor(t, func() bool { return len(residents(t, cfg)) == 1 })
	are(t, residents(t, cfg), handle)
}

func TestHS06_AKeyThatIsMadeTooLateIsDestroyed(t *testing.T) {
	s, cfg := residentShim(t)
	cfg.Timeout = 300 * time.Millisecond
	r := hsmtest.Open(t, cfg)
	s.fail("C_GenerateKey", fault{code: pkcs11.CKR_OK, times: 0, sleep: 600 * time.Millisecond})
	_, err := r.NewKey(t.Context(), kms.KeyID{1}, kms.Encryption)
	is(t, err, kms.ErrUnavailable)
	waitFor(t, func() bool { return s.inside("C_GenerateKey") == 0 })
	s.heal()
	waitFor(t, func() bool { return len(residents(t, cfg)) == 0 })
	newKey(t, r, kms.Encryption)
}

// A token that shows no private objects, as one that has lost the login, has lost
// no key.
func TestHS09_ATokenThatShowsNoKeyIsNotBelievedWhileItFails(t *testing.T) {
	s, cfg := residentShim(t)
	r := hsmtest.Open(t, cfg)
	handle := newKey(t, r, kms.Encryption)
	s.fail("C_FindObjects", fault{code: pkcs11.CKR_OK, times: forever}) // nothing is found
	s.fail("C_UnwrapKey", fault{code: pkcs11.CKR_USER_NOT_LOGGED_IN, times: forever})
	_, err := r.Encrypt(t.Context(), handle, nil, nil)
	is(t, err, kms.ErrUnavailable)
	if errors.Is(err, kms.ErrCorrupt) {
		t.Errorf("error is %v", err)
	}
	s.heal()
	waitFor(t, func() bool {
		_, err = r.Encrypt(t.Context(), handle, nil, nil)
		return err == nil
	})
}

// A key that has the name of another, but is another, is not used.
func TestCR07_AnotherKeyUnderTheName(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.Residency = "token"
	r := hsmtest.Open(t, cfg)
	one, two := newKey(t, r, kms.Encryption), newKey(t, r, kms.Encryption)
	mixed := bytes.Clone(one)
	copy(mixed[3:27], two[3:27])
	_, err := r.Encrypt(t.Context(), mixed, nil, nil)
	is(t, err, kms.ErrCorrupt)
	_, err = r.Encrypt(t.Context(), two, nil, nil)
	ok(t, err)
}

func TestNSSKeepsKeys(t *testing.T) {
	cfg := nss.Config(t)
	cfg.Accept, cfg.Residency = nssGaps, "token"
	initStrictly(t, cfg)
	r := hsmtest.Open(t, cfg)
	made, mac := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
	imported, err := r.ImportKey(t.Context(), kms.KeyID{1}, kms.Authentication, make([]byte, kms.KeySize))
	ok(t, err)
	ciphertext, err := r.Encrypt(t.Context(), made, []byte("plaintext"), nil)
	ok(t, err)
	ok(t, r.DestroyKey(t.Context(), mac))
	are(t, residents(t, cfg), made, imported)
	again := hsmtest.Open(t, cfg)
	_, err = again.Decrypt(t.Context(), made, ciphertext, nil)
	ok(t, err)
}

// Tokens that have no key be extractable, and so wrap none, are what keys in the
// token are for.
func TestHS23_ATokenThatWrapsNoKey(t *testing.T) {
	for name, refuse := range map[string]func(*shim){
		"no wrapping": func(s *shim) {
			s.hide(pkcs11.CKM_AES_KEY_WRAP)
			s.fail("C_WrapKey", fault{code: pkcs11.CKR_MECHANISM_INVALID, times: forever})
		},
		"no extractable keys": func(s *shim) { s.fail("C_WrapKey", fault{code: pkcs11.CKR_KEY_NOT_WRAPPABLE, times: forever}) },
	} {
		t.Run(name, func(t *testing.T) {
			s, cfg := shimmed(t)
			refuse(s)
			is(t, refused(t, cfg), kms.ErrUnsupported)
			cfg.Residency = "token"
			var log bytes.Buffer
			r, err := hsm.Open(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)))
			ok(t, err)
			defer func() { ok(t, r.Close()) }()
			handle := newKey(t, r, kms.Encryption)
			ciphertext, err := r.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
			ok(t, err)
			ciphertext[12] ^= 1
			_, err = r.Decrypt(t.Context(), handle, ciphertext, nil)
			is(t, err, kms.ErrCiphertext)
			ok(t, r.DestroyKey(t.Context(), handle))
			_, err = r.Encrypt(t.Context(), handle, nil, nil)
			is(t, err, kms.ErrCorrupt)
			s.fail("C_Sign", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1}) // another link
			ok(t, r.Status(t.Context()))
			newKey(t, r, kms.Authentication)
			report, err := hsm.Examine(t.Context(), cfg, hsm.Examination{Latencies: true})
			ok(t, err)
			if !report.OK || len(report.Latencies) == 0 {
				t.Errorf("the doctor says %+v", report)
			}
			if !strings.Contains(log.String(), "WARN") || !strings.Contains(log.String(), "only keys that stay in the token can be used") {
				t.Errorf("the log is %q", log.String())
			}
		})
	}
}
