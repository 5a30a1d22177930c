package hsm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

var signingKey = hsm.KeyName{Object: hsm.DefaultSigningKey}

// signing makes the signing key in the token of cfg.
func signing(t *testing.T, cfg hsm.Config) hsm.Config {
	t.Helper()
	cfg.SigningKey = hsm.DefaultSigningKey
	_, made, err := hsm.InitSigningKey(t.Context(), cfg)
	ok(t, err)
	if !made {
		t.Fatal("the signing key was there")
	}
	return cfg
}

// signs signs and reports what came of it. A signature that is given out has to be
// that of the key.
func signs(t *testing.T, s *hsm.Signer) error {
	t.Helper()
	digest := sha256.Sum256([]byte("message"))
	signature, err := s.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err == nil && !ecdsa.VerifyASN1(s.Public().(*ecdsa.PublicKey), digest[:], signature) {
		t.Error("a wrong signature was given out")
	}
	return err
}

// eventually is waitFor for what takes its time on a busy machine.
func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not become so in 20 s")
		}
	}
}

func TestInitSigningKeyDoesNothingTwice(t *testing.T) {
	cfg := signing(t, hsmtest.Config(t))
	one, made, err := hsm.InitSigningKey(t.Context(), cfg)
	ok(t, err)
	ok(t, hsm.UseKey(t.Context(), cfg, hsm.KeyName{}, func(key crypto.Signer) error {
		if made || !one.(*ecdsa.PublicKey).Equal(key.Public()) {
			t.Error("it was made anew")
		}
		digest := sha256.Sum256(nil)
		_, err := key.Sign(nil, digest[:], crypto.SHA256)
		return err
	}))
	r := hsmtest.Open(t, cfg)
	s, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	if !one.(*ecdsa.PublicKey).Equal(s.Public()) {
		t.Error("the signer has another public key")
	}
	ok(t, signs(t, s))
	_, err = r.Signer(t.Context(), hsm.KeyName{Object: "another"})
	is(t, err, hsm.ErrNoKey)
	ok(t, signs(t, s)) // the token is none the worse for it
	if st := r.Stats(); st.Errors != 1 || st.Retries != 0 || st.Connections != 1 {
		t.Errorf("%+v", st)
	}
}

// keyPair makes a key pair of some kind in the token of cfg, as other tools would.
func keyPair(t *testing.T, cfg hsm.Config, label string, mechanism uint, public []*pkcs11.Attribute, private map[uint]bool) {
	t.Helper()
	r := hsmtest.Open(t, cfg)
	ok(t, r.OnSession(t.Context(), func(c hsm.Calls) {
		s, err := c.OpenSession(c.Slot(), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		ok(t, err)
		defer c.CloseSession(s)
		name := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_ID, []byte(label))}
		set := map[uint]bool{pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: true, pkcs11.CKA_SENSITIVE: true, pkcs11.CKA_EXTRACTABLE: false, pkcs11.CKA_SIGN: true}
		_, _, err = c.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)},
			append(append(public, name...), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true)),
			flags(name, but(set, private)))
		ok(t, err)
	}))
}

var (
	rsa2048 = []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 2048), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})}
	rsa1024 = []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, 1024), pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1})}
	p256    = []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7})}
	p384    = []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, []byte{6, 5, 0x2b, 0x81, 4, 0, 0x22})}
)

func TestEachKindOfSignature(t *testing.T) {
	cfg := hsmtest.Config(t)
	keyPair(t, cfg, "rsa", pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, rsa2048, nil)
	keyPair(t, cfg, "p256", pkcs11.CKM_EC_KEY_PAIR_GEN, p256, nil)
	keyPair(t, cfg, "p384", pkcs11.CKM_EC_KEY_PAIR_GEN, p384, nil)
	cfg.Signs = true
	r := hsmtest.Open(t, cfg)
	s256, s384, s512 := sha256.Sum256(nil), sha512.Sum384(nil), sha512.Sum512(nil)
	for label, curve := range map[string]elliptic.Curve{"p256": elliptic.P256(), "p384": elliptic.P384()} {
		s, err := r.Signer(t.Context(), hsm.KeyName{Object: label})
		ok(t, err)
		key := s.Public().(*ecdsa.PublicKey)
		if key.Curve != curve {
			t.Errorf("%s is on %s", label, key.Params().Name)
		}
		for hash, digest := range map[crypto.Hash][]byte{crypto.SHA256: s256[:], crypto.SHA384: s384[:], crypto.SHA512: s512[:]} {
			signature, err := s.Sign(nil, digest, hash)
			ok(t, err)
			if !ecdsa.VerifyASN1(key, digest, signature) {
				t.Errorf("%s with %v: the signature is wrong", label, hash)
			}
		}
	}
	s, err := r.Signer(t.Context(), hsm.KeyName{ID: []byte("rsa")})
	ok(t, err)
	key := s.Public().(*rsa.PublicKey)
	for hash, digest := range map[crypto.Hash][]byte{crypto.SHA256: s256[:], crypto.SHA384: s384[:], crypto.SHA512: s512[:]} {
		signature, err := s.Sign(nil, digest, hash)
		ok(t, err)
		ok(t, rsa.VerifyPKCS1v15(key, hash, digest, signature))
		signature, err = s.Sign(nil, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash})
		ok(t, err)
		ok(t, rsa.VerifyPSS(key, hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
	}
	_, err = s.Sign(nil, s256[:], &rsa.PSSOptions{SaltLength: 7, Hash: crypto.SHA256})
	is(t, err, kms.ErrUnsupported)
	_, err = s.Sign(nil, s256[:5], crypto.SHA256)
	is(t, err, kms.ErrUnsupported)
}

func TestPrivateKeysThatAreRefused(t *testing.T) {
	cfg := hsmtest.Config(t)
	for label, private := range map[string]map[uint]bool{
		"extractable":   {pkcs11.CKA_EXTRACTABLE: true},
		"not sensitive": {pkcs11.CKA_SENSITIVE: false},
		"not private":   {pkcs11.CKA_PRIVATE: false},
	} {
		keyPair(t, cfg, label, pkcs11.CKM_EC_KEY_PAIR_GEN, p256, private)
	}
	keyPair(t, cfg, "short", pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, rsa1024, nil)
	keyPair(t, cfg, "twice", pkcs11.CKM_EC_KEY_PAIR_GEN, p256, nil)
	keyPair(t, cfg, "twice", pkcs11.CKM_EC_KEY_PAIR_GEN, p256, nil)
	cfg.Signs = true
	r := hsmtest.Open(t, cfg)
	for label, why := range map[string]string{"extractable": "CKA_EXTRACTABLE is true", "not sensitive": "CKA_SENSITIVE is false", "not private": "CKA_PRIVATE is false",
		"short": "1024 bits is less than 2048", "twice": "2 key pairs"} {
		_, err := r.Signer(t.Context(), hsm.KeyName{Object: label})
		says(t, err, why)
	}
	if st := r.Stats(); st.Connections != 1 {
		t.Errorf("a refused key cost the connection: %+v", st)
	}
}

func TestARootThatWasNotOpenedToSignSaysSo(t *testing.T) {
	r := hsmtest.Open(t, hsmtest.Config(t))
	_, err := r.Signer(t.Context(), signingKey)
	is(t, err, kms.ErrUnsupported)
	says(t, err, "was not opened to use private keys")
}

// A signature is checked against the public key before it is given out.
func TestHS03_AWrongSignatureIsNotGivenOut(t *testing.T) {
	s, cfg := shimmed(t)
	r := hsmtest.Open(t, signing(t, cfg))
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	ok(t, signs(t, key))
	s.fail("C_Sign", fault{times: forever, flip: 4})
	err = signs(t, key)
	is(t, err, kms.ErrUnavailable)
	says(t, err, "not that of the key")
	if got := r.WrongSignatures(); got == 0 {
		t.Error("it was not counted")
	}
	s.heal()
	ok(t, signs(t, key))
}

// Each fault of a session, the login, the token or the module is over when it is.
func TestHS03_SigningRecovers(t *testing.T) {
	s, cfg := shimmed(t)
	r := hsmtest.Open(t, signing(t, cfg))
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	for _, code := range []uint{
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_USER_NOT_LOGGED_IN,
		pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_HOST_MEMORY,
	} {
		for _, function := range []string{"C_SignInit", "C_Sign"} {
			s.fail(function, fault{code: code, times: 1})
			if err := signs(t, key); err != nil {
				t.Errorf("%s once %#x: %v", function, code, err) // a second try is made
			}
			s.fail(function, fault{code: code, times: forever})
			for range 3 {
				if signs(t, key) == nil {
					t.Fatalf("%s answers %#x and it signs", function, code)
				}
			}
			s.heal()
			eventually(t, func() bool { return signs(t, key) == nil })
		}
	}
	ok(t, r.Status(t.Context()))
	if n := s.calls("C_OpenSession") - s.calls("C_CloseSession"); n > 60 {
		t.Errorf("%d sessions are open", n)
	}
}

// A token that is away when the module is initialised anew is found by crypto11 too
// when it is back.
func TestHS08_SigningComesBackWithTheToken(t *testing.T) {
	s, cfg := shimmed(t)
	r := hsmtest.Open(t, signing(t, cfg))
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	for _, functions := range [][]string{{"C_GetTokenInfo", "C_SignInit", "C_OpenSession"}, {"C_GetSlotList", "C_SignInit"}, {"C_Initialize", "C_SignInit"}} {
		for _, function := range functions {
			s.fail(function, fault{code: pkcs11.CKR_DEVICE_REMOVED, times: forever})
		}
		for range 5 {
			if signs(t, key) == nil {
				t.Fatal("it signs without a token")
			}
			time.Sleep(20 * time.Millisecond)
		}
		s.heal()
		eventually(t, func() bool { return signs(t, key) == nil })
		ok(t, r.Status(t.Context()))
	}
}

func TestHS03_SigningWhileTheModuleIsInitialisedAnew(t *testing.T) {
	s, cfg := shimmed(t)
	r := hsmtest.Open(t, signing(t, cfg))
	handle := newKey(t, r, kms.Encryption)
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	var stop atomic.Bool
	defer stop.Store(true)
	var signed, sealed atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				if signs(t, key) == nil {
					signed.Add(1)
				}
			}
		})
		wg.Go(func() {
			for !stop.Load() {
				c, err := r.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
				if err != nil {
					continue
				}
				if p, err := r.Decrypt(t.Context(), handle, c, nil); err == nil && bytes.Equal(p, []byte("plaintext")) {
					sealed.Add(1)
				} else if err == nil || !errors.Is(err, kms.ErrUnavailable) {
					t.Errorf("%q, %v", p, err)
				}
			}
		})
	}
	before := s.calls("C_Finalize")
	for n := 1; n <= 5; n++ {
		s.fail("C_GetSlotList", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 4}) // crypto11 asks for it three times, too
		s.fail("C_SignInit", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
		eventually(t, func() bool { return s.calls("C_Finalize") >= before+n })
		s.heal()
		wasSigned, wasSealed := signed.Load(), sealed.Load()
		eventually(t, func() bool { return signed.Load() > wasSigned+5 && sealed.Load() > wasSealed+5 })
	}
	stop.Store(true)
	wg.Wait()
	if n := r.WrongSignatures(); n > 0 {
		t.Errorf("%d wrong signatures", n)
	}
	eventually(t, func() bool { return signs(t, key) == nil })
}

// A C_Sign that hangs costs its caller no more than the time of a call, and no thread
// for each try.
func TestHS12_ASignatureThatHangsIsLeft(t *testing.T) {
	s, cfg := shimmed(t)
	cfg.Timeout, cfg.Sessions = 300*time.Millisecond, 2
	r := hsmtest.Open(t, signing(t, cfg))
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	ok(t, signs(t, key))
	s.fail("C_Sign", fault{code: pkcs11.CKR_DEVICE_ERROR, times: forever, sleep: time.Hour})
	goroutines := runtime.NumGoroutine()
	for range 20 {
		begun := time.Now()
		is(t, signs(t, key), kms.ErrUnavailable)
		if took := time.Since(begun); took > time.Second {
			t.Errorf("it took %v", took)
		}
	}
	if inside := s.inside("C_Sign"); inside > 8 {
		t.Errorf("%d calls hang", inside)
	}
	if more := runtime.NumGoroutine() - goroutines; more > 30 {
		t.Errorf("%d goroutines more", more)
	}
	s.heal()
	eventually(t, func() bool { return signs(t, key) == nil })
}

// hangingSigner opens a root of few sessions whose calls may hang, and returns it, a key
// that encrypts, and one that signs.
func hangingSigner(t *testing.T, sessions int) (s *shim, r *hsm.Root, handle []byte, key *hsm.Signer) {
	t.Helper()
	s, cfg := shimmed(t)
	cfg.Timeout, cfg.Sessions = 300*time.Millisecond, sessions
	r = hsmtest.Open(t, signing(t, cfg))
	handle = newKey(t, r, kms.Encryption)
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	ok(t, signs(t, key))
	return s, r, handle, key
}

// holds has the calls of a function hang that are made while fn runs, until the test
// ends, and sees that so many do.
func (s *shim) holds(function string, calls int, fn func()) {
	s.t.Helper()
	s.fail(function, fault{hold: true})
	s.t.Cleanup(func() { s.free(function) })
	fn()
	s.fail(function, fault{})
	if n := s.inside(function); n != calls {
		s.t.Fatalf("%d calls of %s hang, not %d", n, function, calls)
	}
}

// A search for a private key that hangs for good costs one session: not one for each
// signature that needs the key, and those come back.
func TestHS12_ASearchForAKeyThatHangsCostsOneSession(t *testing.T) {
	s, r, handle, key := hangingSigner(t, 2)
	s.fail("C_Sign", fault{code: pkcs11.CKR_KEY_HANDLE_INVALID, times: 1})
	s.holds("C_FindObjectsInit", 1, func() { is(t, signs(t, key), kms.ErrUnavailable) })
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { _ = signs(t, key) })
	}
	wg.Wait()
	eventually(t, func() bool { return signs(t, key) == nil })
	for range 20 {
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		ok(t, err)
		ok(t, signs(t, key))
	}
	waitFor(t, func() bool { return r.Stats().Hung == 1 })
	if n := s.inside("C_FindObjectsInit"); n != 1 {
		t.Errorf("%d searches hang", n)
	}
}

// As many signatures that hang as there are sessions to sign with stop no other call, and
// the next ones are made with other sessions.
func TestHS12_SignaturesThatHangStopNoOtherCall(t *testing.T) {
	s, r, handle, key := hangingSigner(t, 8)
	s.holds("C_Sign", 4, func() {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { is(t, signs(t, key), kms.ErrUnavailable) })
		}
		wg.Wait()
	})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for !stop.Load() {
				_ = signs(t, key)
			}
		})
	}
	eventually(t, func() bool {
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		if err != nil {
			t.Error(err)
		}
		return signs(t, key) == nil
	})
	stop.Store(true)
	wg.Wait()
}

// What takes the place of a context that failed hangs when it is opened: what is there
// signs.
func TestHS12_SessionsWhoseOpeningHangsStopNoSignature(t *testing.T) {
	s, r, handle, key := hangingSigner(t, 1) // it is open, so that of crypto11 hangs
	s.fail("C_Sign", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 1})
	s.holds("C_OpenSession", 1, func() { is(t, signs(t, key), kms.ErrUnavailable) })
	eventually(t, func() bool { return signs(t, key) == nil }) // another session is opened
	for range 20 {
		ok(t, signs(t, key))
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		ok(t, err)
	}
	listed := s.calls("C_GetSlotList") // by crypto11, for each context
	s.fail("C_Sign", fault{code: pkcs11.CKR_DEVICE_ERROR, times: 2})
	is(t, signs(t, key), kms.ErrUnavailable)
	if s.calls("C_GetSlotList") == listed {
		t.Error("no other context is opened")
	}
	s.free("C_OpenSession") // what was opened late is not used
	waitFor(t, func() bool { return s.inside("C_OpenSession") == 0 })
	for range 20 {
		ok(t, signs(t, key))
	}
}

// Of contexts that are closed only so many wait for calls that hang: a token whose search
// for keys always hangs goes on with all else.
func TestHS12_SearchesThatHangAreBounded(t *testing.T) {
	s, r, handle, key := hangingSigner(t, 4)
	s.fail("C_Sign", fault{code: pkcs11.CKR_KEY_HANDLE_INVALID, times: 1})
	s.holds("C_FindObjectsInit", 3, func() {
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
			is(t, signs(t, key), kms.ErrUnavailable)
		}
	})
	_, err := r.Encrypt(t.Context(), handle, nil, nil)
	ok(t, err)
}

func TestKeyNames(t *testing.T) {
	n, err := hsm.ParseKeyName("pkcs11:object=keygate%20sign;id=%01%ff;type=private")
	ok(t, err)
	if n.Object != "keygate sign" || !bytes.Equal(n.ID, []byte{1, 0xff}) {
		t.Errorf("%+v", n)
	}
	for uri, why := range map[string]string{
		"server.key":                        "does not begin with the scheme pkcs11",
		"pkcs11:":                           "names no key",
		"pkcs11:type=private":               "names no key",
		"pkcs11:object=a;type=cert":         "not private",
		"pkcs11:object=a;token=b":           "token is not known here",
		"pkcs11:object=a?pin-value=1234":    "pin-value",
		"pkcs11:object=a?module-path=/a.so": "module-path is not known here",
		"pkcs11:object=a;object=b":          "twice",
		"pkcs11:object=%zz":                 "object",
	} {
		_, err := hsm.ParseKeyName(uri)
		says(t, err, why)
	}
}

// Another key pair under the label is not the key, whatever it signs.
func TestHS15_AnotherKeyUnderTheLabelIsNotTheKey(t *testing.T) {
	s, cfg := shimmed(t)
	keyPair(t, cfg, "tls", pkcs11.CKM_EC_KEY_PAIR_GEN, p256, nil)
	with := cfg
	with.Signs = true
	r := hsmtest.Open(t, with)
	key, err := r.Signer(t.Context(), hsm.KeyName{Object: "tls"})
	ok(t, err)
	ok(t, signs(t, key))
	ok(t, r.OnSession(t.Context(), func(c hsm.Calls) {
		session, err := c.OpenSession(c.Slot(), pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		ok(t, err)
		defer c.CloseSession(session)
		ok(t, c.FindObjectsInit(session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, "tls")}))
		found, _, err := c.FindObjects(session, 5)
		ok(t, errors.Join(err, c.FindObjectsFinal(session)))
		for _, object := range found {
			ok(t, c.DestroyObject(session, object))
		}
	}))
	err = signs(t, key)
	is(t, err, hsm.ErrNoKey)
	keyPair(t, cfg, "tls", pkcs11.CKM_EC_KEY_PAIR_GEN, p256, nil)
	err = signs(t, key)
	says(t, err, "not that of the key")
	before := s.calls("C_Finalize")
	s.fail("C_GetSlotList", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 4})
	s.fail("C_SignInit", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	eventually(t, func() bool { return signs(t, key) != nil && s.calls("C_Finalize") > before })
	says(t, signs(t, key), "not that of the key")
	if r.WrongSignatures() == 0 {
		t.Error("it was not counted")
	}
	ok(t, r.Status(t.Context()))
}

// A token that is put to use while another is asked is asked as well.
func TestHS16_ATokenThatIsMendedMeanwhileSigns(t *testing.T) {
	shims, cfg := pair(t)
	one := cfg.EachToken()[1] // the pair is made in the second only
	one.SigningKey = hsm.DefaultSigningKey
	_, _, err := hsm.InitSigningKey(t.Context(), one)
	ok(t, err)
	cfg.SigningKey = hsm.DefaultSigningKey
	r := hsmtest.Open(t, cfg)
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	shims[0].fail("C_FindObjectsInit", fault{sleep: 400 * time.Millisecond})
	r.Trip(1) // for 50 ms: the probe finds that it works
	ok(t, signs(t, key))
	if !r.Tokens()[1].Works {
		t.Error("it was not put to use meanwhile: this shows nothing")
	}
}

// A signer that answers without an error answers with a signature, whatever becomes of
// its token meanwhile.
func TestHS16_NoSignatureIsAnError(t *testing.T) {
	r := hsmtest.Open(t, signing(t, hsmtest.Config(t)))
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			r.Trip(0)
			r.Mend(0)
		}
	})
	for range 3000 {
		if err := signs(t, key); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
}

// Of several tokens, one that has the key signs, whichever the others are.
func TestHS16_ATokenThatHasTheKeySigns(t *testing.T) {
	shims, cfg := pair(t)
	one := cfg.EachToken()[1] // the pair is made in the second only
	one.SigningKey = hsm.DefaultSigningKey
	_, _, err := hsm.InitSigningKey(t.Context(), one)
	ok(t, err)
	cfg.SigningKey = hsm.DefaultSigningKey
	r := hsmtest.Open(t, cfg)
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	for range 20 {
		ok(t, signs(t, key))
	}
	for _, token := range r.Tokens() {
		if !token.Works || token.Trips > 0 {
			t.Errorf("%+v", token)
		}
	}
	a, err := r.Attest(t.Context(), hsm.AttestRequest{})
	ok(t, err)
	if len(a.Envelopes) != 1 || len(a.Missing) != 1 {
		t.Errorf("%d statements, missing: %q", len(a.Envelopes), a.Missing)
	}
	// Another pair under the label, in the first token, is not the key: it does not sign,
	// and nothing is wrong with the token.
	other := cfg.EachToken()[0]
	_, made, err := hsm.InitSigningKey(t.Context(), other)
	ok(t, err)
	if !made {
		t.Fatal("the first token had the key")
	}
	shims[1].unplug()
	eventually(t, func() bool { return errors.Is(signs(t, key), hsm.ErrNoKey) })
	err = signs(t, key)
	is(t, err, kms.ErrUnavailable)
	says(t, err, "its key \"keygate-sign\" is another one")
	if n := r.WrongSignatures(); n != 0 {
		t.Errorf("%d alarms for a key that never was the one", n)
	}
	shims[1].heal()
	eventually(t, func() bool { return signs(t, key) == nil })
	if status := r.Tokens()[0]; !status.Works || status.Trips > 0 {
		t.Errorf("the first token is out of use: %+v", status)
	}
}

// Each of two tokens has a pair of its own: a signer has that of the token which was
// there first, and the other signs nothing for it, whichever comes and goes.
func TestHS16_APairOfAnotherTokenSignsNothing(t *testing.T) {
	shims, cfg := pair(t)
	public := make([]crypto.PublicKey, 2)
	for i, one := range cfg.EachToken() {
		var err error
		public[i], _, err = hsm.InitSigningKey(t.Context(), one)
		ok(t, err)
	}
	cfg.SigningKey = hsm.DefaultSigningKey
	for away := range shims {
		there := 1 - away
		shims[away].unplug()
		with := cfg
		if away == 1 {
			with = isolated(cfg)
		}
		r := hsmtest.Open(t, with)
		key, err := r.Signer(t.Context(), signingKey)
		ok(t, err)
		if !public[there].(*ecdsa.PublicKey).Equal(key.Public()) {
			t.Fatalf("with token %d away the key is not that of the other", away)
		}
		shims[away].heal()
		eventually(t, func() bool { return r.Tokens()[away].Works })
		for range 3 {
			ok(t, signs(t, key))
		}
		shims[there].unplug()
		eventually(t, func() bool { return errors.Is(signs(t, key), hsm.ErrNoKey) })
		if n := r.WrongSignatures(); n != 0 {
			t.Errorf("%d alarms, though no token is ill", n)
		}
		shims[there].heal()
		eventually(t, func() bool { return signs(t, key) == nil && r.Tokens()[there].Works })
		if !r.Tokens()[away].Works {
			t.Errorf("token %d was put out of use", away)
		}
		// A signature that is not that of the token's own key is an alarm as before.
		shims[there].fail("C_Sign", fault{times: forever, flip: 4})
		says(t, signs(t, key), "not that of the key")
		shims[there].heal()
		if r.WrongSignatures() == 0 {
			t.Error("a wrong signature was not counted")
		}
		eventually(t, func() bool { return signs(t, key) == nil })
	}
}
