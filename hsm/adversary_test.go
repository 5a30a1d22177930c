package hsm_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// A login that hangs holds the PIN: Close must not wait for it.
func TestHS06_CloseDoesNotWaitForALoginThatHangs(t *testing.T) {
	if os.Getenv("KEYGATE_LONG") == "" {
		t.Skip("KEYGATE_LONG is not set: Close waits for 10 s for a connection that is being made")
	}
	// The library stays initialised when a call hangs in it: not that of other tests.
	f := softhsm.Token(t)
	_, err := hsm.Init(t.Context(), configOf(f))
	ok(t, err)
	s, cfg := shimBefore(t, f, softhsm.CopyOfModule(t, f), configOf(f))
	r, err := hsm.Open(t.Context(), cfg, quiet())
	ok(t, err)
	s.fail("C_Login", fault{sleep: time.Hour})
	s.fail("C_GetSessionInfo", fault{code: pkcs11.CKR_SESSION_HANDLE_INVALID, times: 1}) // it has to log in again
	s.fail("C_SignInit", fault{code: pkcs11.CKR_USER_NOT_LOGGED_IN, times: 1})
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _ = r.MAC(short, nil, []byte("message"))
	waitFor(t, func() bool { return s.inside("C_Login") == 1 })
	closed := make(chan error, 1)
	go func() { closed <- r.Close() }()
	select {
	case err := <-closed:
		t.Log(err)
	case <-time.After(25 * time.Second):
		t.Fatal("Close waits for the login that hangs")
	}
}

// A private key that one of two tokens does not have is no fault of that token.
func TestHS16_APrivateKeyThatIsInOneTokenTripsNoOther(t *testing.T) {
	f := softhsm.Token(t)
	_, err := hsm.Init(t.Context(), configOf(f))
	ok(t, err)
	two := softhsm.Clone(t, f)
	signing(t, configOf(f))
	shims, cfg := pairOf(t, f, two)
	cfg.SigningKey = hsm.DefaultSigningKey
	root := hsmtest.Open(t, cfg)
	s, err := root.Signer(t.Context(), signingKey)
	ok(t, err)
	ok(t, signs(t, s))
	shims[0].unplug()
	for range 8 {
		if signs(t, s) == nil {
			t.Error("it signs with a token that is not there")
		}
	}
	if st := root.Tokens()[1]; st.Trips != 0 {
		t.Errorf("the token that does not have the key was put out of use: %+v", st.Why)
	}
}

// What a token refuses to sign with a key that may not sign so is no fault of it: a
// client of TLS may ask for it again and again.
func TestHS13_ASignatureThatTheKeyMayNotMakeIsNoFaultOfTheToken(t *testing.T) {
	cfg := hsmtest.Config(t)
	root := hsmtest.Open(t, cfg)
	ok(t, root.OnSession(t.Context(), func(c hsm.Calls) {
		s, err := c.OpenSession(c.Slot(), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		ok(t, err)
		defer c.CloseSession(s)
		name := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, "pkcs1"), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte("pkcs1")), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}
		only := binary.NativeEndian.AppendUint64(nil, pkcs11.CKM_RSA_PKCS)
		_, _, err = c.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)}, append(rsa2048, name...),
			append(flags(name, map[uint]bool{pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false, pkcs11.CKA_SIGN: true}),
				pkcs11.NewAttribute(pkcs11.CKA_ALLOWED_MECHANISMS, only)))
		ok(t, err)
	}))
	cfg.Signs = true
	root = hsmtest.Open(t, cfg)
	s, err := root.Signer(t.Context(), hsm.KeyName{Object: "pkcs1"})
	ok(t, err)
	digest := sha256.Sum256(nil)
	_, err = s.Sign(rand.Reader, digest[:], crypto.SHA256)
	ok(t, err)
	for range 5 {
		_, err := s.Sign(rand.Reader, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
		is(t, err, kms.ErrUnsupported)
	}
	if st := root.Tokens()[0]; st.Trips != 0 {
		t.Errorf("the token was put out of use: %v", st.Why)
	}
}

// A caller who has no time left, a slow store had it, tells nothing of a token.
func TestHS16_ACallerWithoutTimeTripsNoToken(t *testing.T) {
	shims, cfg := pair(t)
	root := hsmtest.Open(t, cfg)
	for _, s := range shims {
		s.fail("C_Sign", fault{sleep: 20 * time.Millisecond})
	}
	for range 6 {
		short, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := root.MAC(short, nil, []byte("message"))
		is(t, err, context.DeadlineExceeded)
		cancel()
	}
	for _, st := range root.Tokens() {
		if st.Trips != 0 {
			t.Errorf("%s was put out of use: %v", st.Name, st.Why)
		}
	}
}
