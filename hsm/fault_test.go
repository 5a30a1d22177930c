package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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

// reinitialized makes the module be finalised and initialised.
func (f faulty) reinitialized() {
	f.t.Helper()
	before := f.calls("C_Initialize")
	f.fail("C_GetSlotList", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	f.fail("C_EncryptInit", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	f.encrypt()
	if got := f.calls("C_Initialize") - before; got != 1 {
		f.t.Fatalf("the module was initialised %d times, not once", got)
	}
}

func TestHS03_NoHandleOutlivesTheModulesInitialisation(t *testing.T) {
	f := openFaulty(t)
	other := newKey(t, f.root, kms.Encryption)
	for i := range 4 {
		// Loaded in another order each time, the keys swap their numbers: a
		// stale handle would encrypt under the wrong key without an error.
		one, two := f.handle, other
		if i%2 == 1 {
			one, two = other, f.handle
		}
		a, err := f.root.Encrypt(t.Context(), one, []byte("one"), nil)
		ok(t, err)
		b, err := f.root.Encrypt(t.Context(), two, []byte("two"), nil)
		ok(t, err)
		f.reinitialized()
		c, err := f.root.Encrypt(t.Context(), two, []byte("two"), nil)
		ok(t, err)
		for _, test := range []struct {
			handle, ciphertext []byte
			want               string
		}{{one, a, "one"}, {two, b, "two"}, {two, c, "two"}} {
			got, err := f.root.Decrypt(t.Context(), test.handle, test.ciphertext, nil)
			ok(t, err)
			if string(got) != test.want {
				t.Errorf("plaintext %q, not %q", got, test.want)
			}
		}
	}
}

func TestHS03_InitialisingUnderLoad(t *testing.T) {
	f := openFaulty(t)
	handles := [][]byte{f.handle, newKey(t, f.root, kms.Encryption), newKey(t, f.root, kms.Encryption)}
	var stop atomic.Bool
	var done atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			handle := handles[i%len(handles)]
			for !stop.Load() {
				ciphertext, err := f.root.Encrypt(t.Context(), handle, []byte{byte(i)}, nil)
				if errors.Is(err, kms.ErrUnavailable) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				got, err := f.root.Decrypt(t.Context(), handle, ciphertext, nil)
				if errors.Is(err, kms.ErrUnavailable) {
					continue
				}
				if err != nil || len(got) != 1 || got[0] != byte(i) {
					t.Errorf("plaintext %v, %v: encrypted under another key", got, err)
					return
				}
				done.Add(1)
			}
		})
	}
	before := f.calls("C_Initialize")
	for range 10 {
		f.fail("C_GetSlotList", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
		f.fail("C_EncryptInit", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
		time.Sleep(50 * time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	if got := f.calls("C_Initialize") - before; got < 5 {
		t.Errorf("only %d initialisations", got)
	}
	if done.Load() < 100 {
		t.Errorf("only %d round trips", done.Load())
	}
	f.recovers()
}

func TestHS06_AHungCallCostsOneSlot(t *testing.T) {
	f := openFaulty(t)
	f.fail("C_Encrypt", fault{sleep: time.Hour})
	var wg sync.WaitGroup
	for range 2 { // of 4 sessions
		wg.Go(func() {
			start := time.Now()
			_, err := f.root.Encrypt(f.t.Context(), f.handle, []byte("plaintext"), nil)
			if !errors.Is(err, kms.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error is %v", err)
			}
			if took := time.Since(start); took < 900*time.Millisecond || took > 1500*time.Millisecond {
				t.Errorf("it returned after %v, not at the deadline of 1 s", took)
			}
		})
	}
	wg.Wait()
	for range 20 {
		ok(t, f.decrypt()) // other functions work, on the other slots
	}
	waitFor(t, func() bool { return f.root.Stats().WrittenOff == 2 })
	f.heal()
	f.recovers()
	waitFor(t, func() bool { return f.root.Stats().Hung == 0 })
}

func TestHS06_AModuleThatHangsCostsBoundedThreads(t *testing.T) {
	f := openFaulty(t)
	f.fail("C_Encrypt", fault{sleep: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for ctx.Err() == nil {
				short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
				_, err := f.root.Encrypt(short, f.handle, []byte("plaintext"), nil)
				cancel()
				if !errors.Is(err, kms.ErrUnavailable) {
					t.Errorf("error is %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got := f.inside("C_Encrypt"); got < 4 || got > 4+32 {
		t.Errorf("%d calls hang in the module, not 4 to 36", got)
	}
	f.heal()
	f.recovers()
}

func TestACancelledCallIsNotStarted(t *testing.T) {
	f := openFaulty(t)
	before := f.calls("C_EncryptInit")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		_, err := f.root.Encrypt(ctx, f.handle, nil, nil)
		is(t, err, kms.ErrUnavailable)
	}
	if got := f.calls("C_EncryptInit") - before; got != 0 {
		t.Errorf("%d calls were made for requests that had ended", got)
	}
}

func TestBI16_WhatCannotBeACiphertextDoesNotReachTheToken(t *testing.T) {
	f := openFaulty(t)
	before := f.calls("C_DecryptInit")
	for _, n := range []int{0, 1, 12, 27, kms.MaxRootPlaintext + 29, 1 << 20} {
		_, err := f.root.Decrypt(t.Context(), f.handle, make([]byte, n), nil)
		is(t, err, kms.ErrCiphertext)
	}
	if got := f.calls("C_DecryptInit") - before; got != 0 {
		t.Errorf("%d calls", got)
	}
}

func TestHS08_TheTokenGoesAwayAndComesBack(t *testing.T) {
	f := openFaulty(t)
	for _, code := range []uint{pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_SESSION_HANDLE_INVALID} {
		for _, function := range []string{"C_EncryptInit", "C_DecryptInit", "C_SignInit", "C_OpenSession", "C_GetTokenInfo", "C_UnwrapKey", "C_GenerateKey", "C_FindObjectsInit"} {
			f.fail(function, fault{code: code, times: forever})
		}
		for range 20 {
			is(t, f.decrypt(), kms.ErrUnavailable)
		}
		is(t, f.root.Status(t.Context()), kms.ErrUnavailable)
		f.heal()
		f.recovers()
	}
	if got := f.calls("C_Initialize"); got > 40 {
		t.Errorf("%d initialisations: a storm", got)
	}
}

func TestHS13_AFaultForEverIsNoStorm(t *testing.T) {
	f := openFaulty(t)
	for _, function := range []string{"C_OpenSession", "C_EncryptInit", "C_DecryptInit"} {
		f.fail(function, fault{code: pkcs11.CKR_DEVICE_ERROR, times: forever})
	}
	before, end := f.calls("C_OpenSession"), time.Now().Add(2*time.Second)
	for time.Now().Before(end) {
		is(t, f.decrypt(), kms.ErrUnavailable)
		time.Sleep(time.Millisecond)
	}
	if got := f.calls("C_OpenSession") - before; got > 40 {
		t.Errorf("%d sessions were tried in 2 s", got)
	}
	f.heal()
	f.recovers()
}

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

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not become so")
		}
	}
}
