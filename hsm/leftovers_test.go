package hsm_test

import (
	"bytes"
	"encoding/hex"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

// labelled returns the CKA_IDs, in hex, of the keys in r's token that have the label of a
// key id.
func labelled(t *testing.T, r *hsm.Root, id kms.KeyID) (all []string) {
	t.Helper()
	ok(t, r.OnSession(t.Context(), func(c hsm.Calls) {
		ok(t, c.FindObjectsInit(c.Session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, "keygate-"+id.String())}))
		found, _, err := c.FindObjects(c.Session, 10)
		ok(t, err)
		ok(t, c.FindObjectsFinal(c.Session))
		for _, object := range found {
			got, err := c.GetAttributeValue(c.Session, object, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, nil)})
			ok(t, err)
			all = append(all, hex.EncodeToString(got[0].Value))
		}
	}))
	return all
}

// Each try makes a key of another name, so that what one before it has left, or the HSM
// makes later, is not taken for the key. It is destroyed when that can be done.
func TestCR07_EachTryHasANameOfItsOwn(t *testing.T) {
	s, cfg := residentShim(t)
	r := hsmtest.Open(t, cfg)
	id := kms.KeyID{7}
	s.fail("C_DestroyObject", fault{hold: true})
	t.Cleanup(func() { s.free("C_DestroyObject") })
	s.fail("C_GenerateKey", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 1, after: true})
	handle, err := r.NewKey(t.Context(), id, kms.Encryption)
	ok(t, err)
	if left := s.left("C_GenerateKey"); left != 0 {
		t.Fatalf("%d faults are left", left)
	}
	all := labelled(t, r, id)
	slices.Sort(all)
	if names := len(slices.Compact(slices.Clone(all))); len(all) != 2 || names != 2 {
		t.Errorf("%d keys of %d names were made: %v", len(all), names, all)
	}
	s.heal()
	s.free("C_DestroyObject")
	waitFor(t, func() bool { return len(residents(t, cfg)) == 1 })
	are(t, residents(t, cfg), handle)
	_, err = hsmtest.Open(t, cfg).Encrypt(t.Context(), handle, nil, nil)
	ok(t, err)
}

// An HSM that has answered that it could not, and makes the key some time later, leaves
// none behind either.
func TestHS01_AKeyThatTheTokenMakesLate(t *testing.T) {
	s, cfg := residentShim(t)
	r := hsmtest.Open(t, cfg)
	s.fail("C_GenerateKey", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 1})
	handle := newKey(t, r, kms.Encryption)
	time.Sleep(cfg.Timeout / 4)
	late := numbered(handle, 1)
	addKey(t, r, handle, late)
	if all := residents(t, cfg); !slices.Contains(all, hex.EncodeToString(late)) {
		t.Fatalf("the late key is not one of %v", all)
	}
	waitFor(t, func() bool { return len(residents(t, cfg)) == 1 })
	are(t, residents(t, cfg), handle)
}

// What cannot be destroyed before the root is closed is destroyed then, or the log
// tells of it.
func TestCloseDestroysWhatIsLeft(t *testing.T) {
	eachIsolation(t, func(t *testing.T, s *shim, cfg hsm.Config) {
		for _, heals := range []bool{true, false} {
			var log syncBuffer
			r, err := hsm.Open(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)))
			ok(t, err)
			s.fail("C_DestroyObject", fault{code: pkcs11.CKR_DEVICE_ERROR, times: forever})
			s.fail("C_GenerateKey", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 3, after: true})
			_, err = r.NewKey(t.Context(), kms.KeyID{3}, kms.Encryption)
			is(t, err, kms.ErrUnavailable)
			if heals {
				s.heal()
			}
			_ = r.Close()
			s.heal()
			left := len(residents(t, cfg))
			if told := strings.Contains(log.String(), "keys that nobody has may be in the token"); heals && left > 0 || told != (left > 0) {
				t.Errorf("healed %v: %d keys are left, and the log is %s", heals, left, log.String())
			}
		}
	})
}

// A key that is imported has another name in each try, too.
func TestCR07_EachTryToImportHasANameOfItsOwn(t *testing.T) {
	s, cfg := residentShim(t)
	r := hsmtest.Open(t, cfg)
	s.fail("C_CreateObject", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 1, after: true})
	s.fail("C_DestroyObject", fault{hold: true})
	t.Cleanup(func() { s.free("C_DestroyObject") })
	key := bytes.Repeat([]byte{5}, kms.KeySize)
	handle, err := r.ImportKey(t.Context(), kms.KeyID{7}, kms.Authentication, key)
	ok(t, err)
	if all := labelled(t, r, kms.KeyID{7}); len(all) != 2 || all[0] == all[1] {
		t.Errorf("the keys are %v", all)
	}
	s.heal()
	s.free("C_DestroyObject")
	waitFor(t, func() bool { return len(residents(t, cfg)) == 1 })
	are(t, residents(t, cfg), handle)
}
