package hsm_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

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

// Numbers of objects begin again when the module is initialised anew, so that of one
// key becomes another's, and a program that kept it encrypts under the wrong key,
// without an error. This is what the next test is about.
func TestHS03_AStaleNumberNamesAnotherKey(t *testing.T) {
	f := softhsm.Token(t)
	one, two := []byte("0123456789abcdef0123456789abcdef"), []byte("fedcba9876543210fedcba9876543210")
	imported := func(r raw, key []byte) pkcs11.ObjectHandle {
		object, err := r.CreateObject(r.session, flags([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, key)}, map[uint]bool{pkcs11.CKA_ENCRYPT: true, pkcs11.CKA_TOKEN: false}))
		ok(t, err)
		return object
	}
	var stale pkcs11.ObjectHandle
	as(t, f, func(r raw) {
		stale = imported(r, one)
		imported(r, two)
		if !r.opens(stale, one) {
			t.Fatal("the number is not that of the first key")
		}
	})
	as(t, f, func(r raw) {
		imported(r, two)
		imported(r, one)
		if !r.opens(stale, two) {
			t.Error("a stale number is not another key's here: the next test shows less than it says")
		}
	})
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

// A C_Finalize that does nothing, and says that there is nothing to do, leaves the
// module initialised. It was taken for another's then, and never initialised again.
func TestHS24_AModuleThatWasNotFinalisedIsStillOurs(t *testing.T) {
	f := openFaulty(t)
	f.fail("C_Finalize", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	f.reinitialized() // C_Initialize answers that the module is initialised
	if got := f.calls("C_CloseAllSessions"); got == 0 {
		t.Error("the sessions that C_Finalize should have closed are left open")
	}
	before := f.calls("C_Finalize")
	f.reinitialized()
	if got := f.calls("C_Finalize") - before; got != 1 {
		t.Errorf("the module was finalised %d times, not once", got)
	}
	ok(t, f.decrypt())
}
