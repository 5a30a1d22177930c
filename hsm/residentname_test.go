package hsm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

// numbered returns the CKA_ID that the key of a handle would have with a number that is
// less by so much.
func numbered(handle []byte, less uint64) []byte {
	id := bytes.Clone(handle[3:27])
	binary.BigEndian.PutUint64(id[16:], binary.BigEndian.Uint64(id[16:])-less)
	return id
}

// addKey makes another key in the token of r, with a CKA_ID and the label of a handle.
func addKey(t *testing.T, r *hsm.Root, handle, id []byte) {
	t.Helper()
	encryption := handle[2] == byte(kms.Encryption)
	mechanism := uint(pkcs11.CKM_GENERIC_SECRET_KEY_GEN)
	if encryption {
		mechanism = pkcs11.CKM_AES_KEY_GEN
	}
	ok(t, r.OnSession(t.Context(), func(c hsm.Calls) {
		_, err := c.GenerateKey(c.Session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, kms.KeySize),
			pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, encryption), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, encryption), pkcs11.NewAttribute(pkcs11.CKA_SIGN, !encryption),
			pkcs11.NewAttribute(pkcs11.CKA_ID, id), pkcs11.NewAttribute(pkcs11.CKA_LABEL, "keygate-"+kms.KeyID(handle[3:19]).String())})
		ok(t, err)
	}))
}

// destroyNamed destroys the first object that has the CKA_ID of a handle.
func destroyNamed(t *testing.T, r *hsm.Root, handle []byte) {
	t.Helper()
	ok(t, r.OnSession(t.Context(), func(c hsm.Calls) {
		ok(t, c.FindObjectsInit(c.Session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_ID, handle[3:27])}))
		found, _, err := c.FindObjects(c.Session, 1)
		ok(t, err)
		ok(t, c.FindObjectsFinal(c.Session))
		ok(t, c.DestroyObject(c.Session, found[0]))
	}))
}

// Of several keys of one name, as some older release left where the HSM was late, the
// right one is used, and the log tells of the others.
func TestCR07_TheRightOneOfSeveralKeysOfOneName(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.Residency = "token"
	r := hsmtest.Open(t, cfg)
	encryption, mac := newKey(t, r, kms.Encryption), newKey(t, r, kms.Authentication)
	sealed, err := r.Encrypt(t.Context(), encryption, []byte("data"), nil)
	ok(t, err)
	want, err := r.MAC(t.Context(), mac, []byte("message"))
	ok(t, err)
	for range 3 {
		addKey(t, r, encryption, encryption[3:27])
		addKey(t, r, mac, mac[3:27])
	}
	var log bytes.Buffer
	again, err := hsm.Open(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)))
	ok(t, err)
	got, err := again.Decrypt(t.Context(), encryption, sealed, nil)
	ok(t, err)
	if string(got) != "data" {
		t.Errorf("it opens as %q", got)
	}
	computed, err := again.MAC(t.Context(), mac, []byte("message"))
	ok(t, err)
	if computed != want {
		t.Error("the MAC is another one")
	}
	ok(t, again.Close())
	if n := strings.Count(log.String(), "several keys of one name"); n != 2 {
		t.Errorf("the log says so %d times: %s", n, log.String())
	}
}

// Where none of several is the right one, none is used.
func TestCR07_SeveralOtherKeysUnderTheName(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.Residency = "token"
	r := hsmtest.Open(t, cfg)
	for _, purpose := range []kms.Purpose{kms.Encryption, kms.Authentication} {
		handle := newKey(t, r, purpose)
		destroyNamed(t, r, handle)
		addKey(t, r, handle, handle[3:27])
		addKey(t, r, handle, handle[3:27])
		again := hsmtest.Open(t, cfg)
		var err error
		if purpose == kms.Encryption {
			_, err = again.Encrypt(t.Context(), handle, nil, nil)
		} else {
			_, err = again.MAC(t.Context(), handle, nil)
		}
		is(t, err, kms.ErrCorrupt)
	}
}

// A token that does not even show the record key by its name, as while its store of
// objects is not ready, tells nothing of a key that it does not show.
func TestHS09_ATokenThatShowsNoObjectIsNotBelieved(t *testing.T) {
	s, cfg := residentShim(t)
	r := hsmtest.Open(t, cfg)
	handle := newKey(t, r, kms.Encryption)
	for _, times := range []int{2, 4, forever} {
		s.fail("C_FindObjects", fault{code: pkcs11.CKR_OK, times: times}) // nothing is found
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		is(t, err, kms.ErrUnavailable)
		if errors.Is(err, kms.ErrCorrupt) {
			t.Errorf("error is %v", err)
		}
		says(t, err, "shows no object by its name")
	}
	s.heal()
	waitFor(t, func() bool {
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		return err == nil
	})
	// Nor is it believed that a key has been destroyed.
	s.fail("C_FindObjects", fault{code: pkcs11.CKR_OK, times: 2})
	is(t, r.DestroyKey(t.Context(), handle), kms.ErrUnavailable)
	s.heal()
	are(t, residents(t, cfg), handle)
	ok(t, r.DestroyKey(t.Context(), handle))
	ok(t, r.DestroyKey(t.Context(), handle))
	are(t, residents(t, cfg))
}
