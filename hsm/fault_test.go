package hsm_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// faulty is a root behind a shim, with one key and a ciphertext under it.
type faulty struct {
	*shim
	root               *hsm.Root
	handle, ciphertext []byte
}

func openFaulty(t *testing.T) faulty {
	t.Helper()
	s, cfg := shimmed(t)
	f := faulty{shim: s, root: hsmtest.Open(t, cfg)}
	t.Cleanup(s.heal)
	f.handle = newKey(t, f.root, kms.Encryption)
	f.ciphertext = f.encrypt()
	return f
}

func (f faulty) encrypt() []byte {
	f.t.Helper()
	ciphertext, err := f.root.Encrypt(f.t.Context(), f.handle, []byte("plaintext"), nil)
	ok(f.t, err)
	return ciphertext
}

func (f faulty) decrypt() error {
	plaintext, err := f.root.Decrypt(f.t.Context(), f.handle, f.ciphertext, nil)
	if err == nil && string(plaintext) != "plaintext" {
		return errors.New("another plaintext")
	}
	return err
}

func (f faulty) decryptBad() error {
	bad := append([]byte(nil), f.ciphertext...)
	bad[len(bad)-1] ^= 1
	_, err := f.root.Decrypt(f.t.Context(), f.handle, bad, nil)
	return err
}

// recovers waits until the root works again, for at most 2 seconds.
func (f faulty) recovers() {
	f.t.Helper()
	start := time.Now()
	for {
		err := errors.Join(f.decrypt(), f.root.Status(f.t.Context()))
		if err == nil {
			return
		}
		if time.Since(start) > 2*time.Second {
			f.t.Fatalf("it does not work 2 s after the fault ended: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// The codes that a bad ciphertext and a failing token can both have.
var ambiguous = []uint{
	pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_ENCRYPTED_DATA_INVALID, pkcs11.CKR_ENCRYPTED_DATA_LEN_RANGE, pkcs11.CKR_DATA_INVALID,
}

func TestHS09_AFaultIsNeverABadCiphertext(t *testing.T) {
	f := openFaulty(t)
	for _, code := range append([]uint{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, 0x80000001}, ambiguous...) {
		for _, function := range []string{"C_DecryptInit", "C_Decrypt"} {
			t.Run(fmt.Sprintf("%s %#x", function, code), func(t *testing.T) {
				for _, times := range []int{1, 2} {
					f.fail(function, fault{code: code, times: times})
					if err := f.decrypt(); err != nil && !errors.Is(err, kms.ErrUnavailable) || errors.Is(err, kms.ErrCiphertext) {
						t.Errorf("%d times: %v", times, err)
					}
				}
				f.fail(function, fault{code: code, times: forever})
				err := f.decrypt()
				is(t, err, kms.ErrUnavailable)
				if errors.Is(err, kms.ErrCiphertext) {
					t.Errorf("%v", err)
				}
				f.heal()
				f.recovers()
				err = f.decryptBad()
				is(t, err, kms.ErrCiphertext)
				if errors.Is(err, kms.ErrUnavailable) {
					t.Errorf("%v", err)
				}
			})
		}
	}
}

// A fault that comes and goes answers as a bad ciphertext does, and each canary between
// is well.
func TestHS09_AFaultThatComesAndGoesIsNeverABadCiphertext(t *testing.T) {
	f := openFaulty(t)
	for round := range 20 {
		f.fail("C_Decrypt", fault{code: pkcs11.CKR_GENERAL_ERROR, times: forever, every: 2})
		if err := f.decrypt(); errors.Is(err, kms.ErrCiphertext) || err != nil && !errors.Is(err, kms.ErrUnavailable) {
			t.Fatalf("round %d: %v", round, err)
		}
		f.heal()
		f.recovers()
		is(t, f.decryptBad(), kms.ErrCiphertext)
	}
}

// One wrong answer when a key is loaded is no corrupt record.
func TestHS09_OneWrongMACIsNoCorruptRecord(t *testing.T) {
	f := openFaulty(t)
	handle := newKey(t, f.root, kms.Authentication)
	f.fail("C_Sign", fault{times: 1, flip: 4}) // of the check, when it is loaded
	_, err := f.root.MAC(t.Context(), handle, []byte("message"))
	if errors.Is(err, kms.ErrCorrupt) {
		t.Error(err)
	}
	f.heal()
	f.fail("C_Sign", fault{times: 1, flip: 4})
	if _, err = f.root.NewKey(t.Context(), kms.KeyID{9}, kms.Authentication); errors.Is(err, kms.ErrCorrupt) {
		t.Error(err)
	}
}

func TestAFaultOnLoadIsNeverACorruptHandle(t *testing.T) {
	f := openFaulty(t)
	for _, code := range append([]uint{pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_WRAPPED_KEY_INVALID}, ambiguous...) {
		f.handle = newKey(t, f.root, kms.Encryption) // which is not loaded
		f.fail("C_UnwrapKey", fault{code: code, times: forever})
		_, err := f.root.Encrypt(t.Context(), f.handle, nil, nil)
		is(t, err, kms.ErrUnavailable)
		if errors.Is(err, kms.ErrCorrupt) {
			t.Errorf("%#x: %v", code, err)
		}
		f.heal()
		f.ciphertext = f.retried()
		f.recovers()
	}
}

// retried is encrypt, for at most 2 seconds.
func (f faulty) retried() []byte {
	f.t.Helper()
	start := time.Now()
	for {
		ciphertext, err := f.root.Encrypt(f.t.Context(), f.handle, []byte("plaintext"), nil)
		if err == nil || time.Since(start) > 2*time.Second {
			ok(f.t, err)
			return ciphertext
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestHS02_DeadSessionsAreReplacedUnseen(t *testing.T) {
	f := openFaulty(t)
	for _, code := range []uint{pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_DEVICE_ERROR} {
		f.fail("C_EncryptInit", fault{code: code, times: 1})
		f.encrypt()
	}
	logins := f.calls("C_Login")
	if connections := f.root.Stats().Connections; connections != 1 {
		t.Errorf("%d connections were made where a session each was enough", connections)
	}
	if logins != 1 {
		t.Errorf("%d logins", logins)
	}
}

func TestHS03_LostHandlesAreFoundAgain(t *testing.T) {
	f := openFaulty(t)
	f.fail("C_EncryptInit", fault{code: pkcs11.CKR_KEY_HANDLE_INVALID, times: 1})
	f.encrypt()
	f.fail("C_SignInit", fault{code: pkcs11.CKR_KEY_HANDLE_INVALID, times: 1})
	_, err := f.root.MAC(t.Context(), nil, nil)
	ok(t, err)
}

func TestHS05_ALogoutByAnotherPartOfTheProcessIsRepaired(t *testing.T) {
	f := openFaulty(t)
	before := f.calls("C_Login")
	f.logOut()
	f.encrypt()
	_, err := f.root.MAC(t.Context(), nil, nil)
	ok(t, err)
	ok(t, f.decrypt())
	if got := f.calls("C_Login") - before; got != 1 {
		t.Errorf("%d logins to renew one", got)
	}
}

// logOut ends the login of all sessions, beside the root and its shim.
func (f faulty) logOut() {
	f.t.Helper()
	path, err := softhsm.Module()
	ok(f.t, err)
	ctx := pkcs11.New(path)
	slots, err := ctx.GetSlotList(true)
	ok(f.t, err)
	for _, slot := range slots {
		session, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			continue // the free slot
		}
		ok(f.t, ctx.Logout(session))
		ok(f.t, ctx.CloseSession(session))
	}
}

func TestHS04_ALoginThatEndedIsRepaired(t *testing.T) {
	f := openFaulty(t)
	f.fail("C_EncryptInit", fault{code: pkcs11.CKR_USER_NOT_LOGGED_IN, times: 1})
	f.encrypt()
	if s := f.root.Stats(); s.Connections != 2 {
		t.Errorf("%d connections, not 2", s.Connections)
	}
}

// A token that gives the number of a loaded key, whose session has ended, to the next
// object: what is encrypted with that number before anybody notices is under another key.
func TestNothingIsEncryptedUnderAnotherKeyOfTheSameNumber(t *testing.T) {
	for _, purpose := range []kms.Purpose{kms.Encryption, kms.Authentication} {
		r := hsmtest.Open(t, hsmtest.Config(t))
		ours, err := r.NewKey(t.Context(), kms.KeyID{1}, purpose)
		ok(t, err)
		use := func() (out []byte, err error) {
			if purpose == kms.Encryption {
				return r.Encrypt(t.Context(), ours, []byte("plaintext"), nil)
			}
			mac, err := r.MAC(t.Context(), ours, []byte("message"))
			return mac[:], err
		}
		before, err := use()
		ok(t, err)

		// As if the number of ours were that of another key, which was just made.
		other, err := r.NewKey(t.Context(), kms.KeyID{2}, purpose)
		ok(t, err)
		if purpose == kms.Encryption {
			_, err = r.Encrypt(t.Context(), other, nil, nil)
		} else {
			_, err = r.MAC(t.Context(), other, nil)
		}
		ok(t, err)
		goesOn := r.ConfuseKeys(ours, other)

		after, err := use()
		ok(t, err) // on another connection
		if goesOn() {
			t.Error("the link goes on")
		}
		if purpose == kms.Authentication {
			if string(after) != string(before) {
				t.Error("it is the MAC of another key")
			}
			continue
		}
		got, err := r.Decrypt(t.Context(), ours, after, nil)
		if err != nil || string(got) != "plaintext" {
			t.Errorf("what was encrypted opens as %q, %v", got, err)
		}
	}
}
