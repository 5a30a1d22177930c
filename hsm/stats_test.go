package hsm_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/kms"
)

// What the module was called for is what Stats has: no call passes by the book.
func TestHS22_EveryCallOfTheModuleIsCounted(t *testing.T) {
	s, cfg := shimmed(t)
	r := hsmtest.Open(t, cfg)
	useAll(t, r)
	s.fail("C_EncryptInit", fault{code: pkcs11.CKR_FUNCTION_CANCELED, times: 1})
	useAll(t, r)

	counted := make(map[string]hsm.FunctionStats)
	for _, f := range r.Stats().Functions {
		counted[f.Function] = f
	}
	for _, name := range p11shim.Functions {
		made := uint64(s.calls(name))
		switch name {
		case "C_GetFunctionList":
			continue // of the loader, before there is a module
		case "C_EncryptInit": // by itself only where it failed
			made = 1
		case "C_DecryptInit", "C_SignInit":
			made = 0
		case "C_WrapKey", "C_GetSlotList", "C_GetMechanismList", "C_GetAttributeValue": // for the size, and again
			made = min(made, counted[name].Calls())
			if made == 0 {
				t.Errorf("%s: called, but not counted", name)
			}
		}
		if got := counted[name].Calls(); got != made {
			t.Errorf("%s: %d calls are counted, %d were made", name, got, made)
		}
		if counted[name].InFlight != 0 {
			t.Errorf("%s: %d calls in flight", name, counted[name].InFlight)
		}
	}
	if f := counted["C_EncryptInit"]; f.Errors["CKR_FUNCTION_CANCELED"] != 1 {
		t.Errorf("C_EncryptInit has the errors %v", f.Errors)
	}
	if counted["C_GenerateKey"].Seconds <= 0 {
		t.Error("no time was spent")
	}
}

// useAll makes r do each of its operations.
func useAll(t *testing.T, r *hsm.Root) {
	t.Helper()
	ctx := t.Context()
	handle := newKey(t, r, kms.Encryption)
	ciphertext, err := r.Encrypt(ctx, handle, []byte("plaintext"), nil)
	ok(t, err)
	_, err = r.Decrypt(ctx, handle, ciphertext, nil)
	ok(t, err)
	_, err = r.ImportKey(ctx, kms.KeyID{2}, kms.Authentication, make([]byte, kms.KeySize))
	ok(t, err)
	_, err = r.MAC(ctx, nil, []byte("message"))
	ok(t, err)
	ok(t, r.Random(ctx, make([]byte, 32)))
	ok(t, r.Status(ctx))
	ok(t, r.DestroyKey(ctx, handle))
}

func TestHS22_AnUnwrapIsCountedForEachKeyThatIsLoaded(t *testing.T) {
	cfg := hsmtest.Config(t)
	r := hsmtest.Open(t, cfg)
	var handles [][]byte
	for range 5 {
		handles = append(handles, newKey(t, r, kms.Encryption))
	}
	unwraps := func() (n uint64) {
		for _, f := range r.Stats().Functions {
			if f.Function == "C_UnwrapKey" {
				n = f.Calls()
			}
		}
		return n
	}
	before := unwraps()
	for range 3 {
		for _, handle := range handles {
			_, err := r.Encrypt(t.Context(), handle, nil, nil)
			ok(t, err)
		}
	}
	if got := unwraps() - before; got != 5 {
		t.Errorf("%d unwraps for 5 keys that are used three times each", got)
	}
}

// A worker process sends its Stats as JSON.
func TestStatsSurviveJSON(t *testing.T) {
	r := hsmtest.Open(t, hsmtest.Config(t))
	useAll(t, r)
	bad := make([]byte, 64)
	if _, err := r.Decrypt(t.Context(), newKey(t, r, kms.Encryption), bad, nil); err == nil {
		t.Fatal("it opens")
	}
	before := r.Stats()
	text, err := json.Marshal(before)
	ok(t, err)
	if len(text) > 8<<10 {
		t.Errorf("they take %d bytes", len(text))
	}
	var after hsm.Stats
	ok(t, json.Unmarshal(text, &after))
	if !reflect.DeepEqual(before, after) {
		t.Errorf("%+v became %+v", before, after)
	}
	if !strings.Contains(string(text), `"errors":{"CKR_`) {
		t.Errorf("no error is in %s", text)
	}
}

func TestABadPINIsCounted(t *testing.T) {
	s, cfg := shimmed(t)
	r := hsmtest.Open(t, cfg)
	s.fail("C_SignInit", fault{code: pkcs11.CKR_USER_NOT_LOGGED_IN, times: 1})
	s.fail("C_GetSessionInfo", fault{code: pkcs11.CKR_OK, times: 1}) // of no login
	s.fail("C_Login", fault{code: pkcs11.CKR_PIN_INCORRECT, times: 1})
	_, err := r.MAC(t.Context(), nil, nil)
	is(t, err, hsm.ErrPIN)
	if st := r.Stats(); st.PINsRefused != 1 || st.PINsWithheld != 0 {
		t.Errorf("%d refused, %d withheld", st.PINsRefused, st.PINsWithheld)
	}
	s.fail("C_GetSessionInfo", fault{code: pkcs11.CKR_OK, times: 1})
	waitFor(t, func() bool {
		_, err = r.MAC(t.Context(), nil, nil)
		return r.Stats().PINsWithheld > 0
	})
	if st := r.Stats(); st.PINsRefused != 1 || st.Logins != 2 {
		t.Errorf("%d refused, %d logins", st.PINsRefused, st.Logins)
	}
}

// A token that was never reached has no connection that counts: what its attempts
// came to is counted all the same.
func TestABadPINOfATokenThatComesLateIsCounted(t *testing.T) {
	shims, cfg := pair(t)
	shims[1].unplug()
	r := hsmtest.Open(t, cfg)
	shims[1].fail("C_Login", fault{code: pkcs11.CKR_PIN_INCORRECT, times: 1})
	for _, function := range p11shim.Functions {
		if function != "C_Login" {
			shims[1].fail(function, fault{})
		}
	}
	waitFor(t, func() bool {
		s := r.Tokens()[1].Stats
		return s.PINsRefused == 1 && s.PINsWithheld > 0
	})
	s := r.Tokens()[1].Stats
	if s.Logins != 1 || s.Failures < 2 || s.Sessions != 0 {
		t.Errorf("%+v", s)
	}
}

// What is counted in a worker process is in the gateway's figures, also when the
// worker has ended.
func TestHS22_CallsOfAWorkerAreCounted(t *testing.T) {
	r := hsmtest.Open(t, isolated(hsmtest.Config(t)))
	useAll(t, r)
	counted := func() map[string]uint64 {
		calls := make(map[string]uint64)
		for _, f := range r.Stats().Functions {
			calls[f.Function] = f.Calls()
		}
		return calls
	}
	waitFor(t, func() bool {
		c := counted()
		return c["C_Encrypt"] > 0 && c["C_UnwrapKey"] > 0 && c["C_CreateObject"] > 0
	})
	if c := counted(); c["C_Login"] != 1 {
		t.Errorf("%d logins", c["C_Login"])
	}
}
