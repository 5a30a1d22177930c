package hsm_test

import (
	"slices"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// A token that is away does not cost another one in the same library its connection
// each time that it is looked for.
func TestHS16_ATokenThatIsAwayLeavesAnotherOfItsLibraryAlone(t *testing.T) {
	s, cfg := shimmed(t)
	label := cfg.Token
	cfg.Token, cfg.Tokens = "", []hsm.TokenConfig{{Token: label}, {Token: "away"}}
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	before := root.Tokens()[0].Stats.Connections
	looked := s.calls("C_GetSlotList")
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		_, err := root.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
		ok(t, err)
	}
	if n := root.Tokens()[0].Stats.Connections - before; n > 4 {
		t.Errorf("the token that works was connected to %d times anew", n)
	}
	if s.calls("C_GetSlotList")-looked < 4 {
		t.Error("the token that is away is not looked for")
	}
}

// afterALameSlot returns the configuration of a token with a signing key, and what makes
// the slot of another one, which crypto11 asks first, fail: crypto11 fails with it.
func afterALameSlot(t *testing.T) (s *shim, cfg hsm.Config, lame func()) {
	t.Helper()
	other, f := softhsm.Token(t), softhsm.Token(t)
	slot, err := hsm.SlotOf(t.Context(), other.Module, other.Label)
	ok(t, err)
	if own, err := hsm.SlotOf(t.Context(), f.Module, f.Label); err != nil || own < slot {
		f, slot = other, own
	}
	cfg = hsm.Config{Module: f.Module, Token: f.Label, PIN: hsm.PIN{File: f.PINFile}, Sessions: 4, Timeout: time.Second}
	_, err = hsm.Init(t.Context(), cfg)
	ok(t, err)
	s, cfg = shimBefore(t, f, f.Module, cfg)
	return s, signing(t, cfg), func() {
		s.fail("C_GetTokenInfo", fault{code: pkcs11.CKR_DEVICE_ERROR, times: forever, only: &slot})
	}
}

// initialisedAnew has the library initialised anew, since the token fails until it is.
func initialisedAnew(t *testing.T, s *shim, r *hsm.Root, handle []byte) {
	t.Helper()
	before := s.calls("C_Finalize")
	s.fail("C_Encrypt", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: forever})
	eventually(t, func() bool {
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		return err != nil && s.calls("C_Finalize") > before
	})
	s.fail("C_Encrypt", fault{})
	eventually(t, func() bool {
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		return err == nil && !slices.ContainsFunc(r.Tokens(), func(token hsm.TokenStatus) bool { return !token.Works })
	})
}

// twoTokens returns the configuration of two tokens in one library, with private keys:
// they are one, with two names.
func twoAfterALameSlot(t *testing.T) (s *shim, cfg hsm.Config, lame func()) {
	t.Helper()
	s, cfg, lame = afterALameSlot(t)
	serials, err := hsm.Serials(t.Context(), s.fixture.Module, cfg.Token)
	ok(t, err)
	label := cfg.Token
	cfg.Token, cfg.Tokens = "", []hsm.TokenConfig{{Token: label}, {Token: label, Serial: serials[0]}}
	return s, cfg, lame
}

func connections(r *hsm.Root) (n uint64) {
	for _, token := range r.Tokens() {
		n += token.Stats.Connections
	}
	return n
}

// encrypts encrypts for so long, and does more beside.
func encrypts(t *testing.T, r *hsm.Root, handle []byte, long time.Duration, more func()) {
	t.Helper()
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		ok(t, err)
		more()
	}
}

// That private keys cannot be used does not have the tokens of a library end each
// other's connection: nobody asks for such a key.
func TestHS16_PrivateKeysThatAreOwedEndNoConnection(t *testing.T) {
	s, cfg, lame := twoAfterALameSlot(t)
	r := hsmtest.Open(t, cfg)
	handle := newKey(t, r, kms.Encryption)
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	lame()
	initialisedAnew(t, s, r, handle)
	encrypts(t, r, handle, time.Second, func() {}) // what is begun ends
	before, begun := connections(r), s.calls("C_Initialize")
	encrypts(t, r, handle, 2500*time.Millisecond, func() {})
	if n := connections(r) - before; n > 1 {
		t.Errorf("the tokens that work were connected to %d times anew, with %d calls of C_Initialize", n, s.calls("C_Initialize")-begun)
	}
	is(t, signs(t, key), kms.ErrUnavailable)
}

// Where somebody asks for a private key that is owed the library is initialised anew,
// ever less often, until he gets it.
func TestHS16_PrivateKeysThatAreOwedComeBack(t *testing.T) {
	for name, config := range map[string]func(*testing.T) (*shim, hsm.Config, func()){"one token": afterALameSlot, "two tokens": twoAfterALameSlot} {
		t.Run(name, func(t *testing.T) {
			s, cfg, lame := config(t)
			r := hsmtest.Open(t, cfg)
			handle := newKey(t, r, kms.Encryption)
			key, err := r.Signer(t.Context(), signingKey)
			ok(t, err)
			lame()
			initialisedAnew(t, s, r, handle)
			before := connections(r)
			encrypts(t, r, handle, 1500*time.Millisecond, func() {
				if signs(t, key) == nil {
					t.Fatal("it signs, so this shows nothing")
				}
			})
			if n := connections(r) - before; n > 6 {
				t.Errorf("tokens that work were connected to %d times anew", n)
			}
			s.heal()
			eventually(t, func() bool { return signs(t, key) == nil })
			encrypts(t, r, handle, 100*time.Millisecond, func() { ok(t, signs(t, key)) })
		})
	}
}

// A token that could be used but for private keys is used while a call hangs, which is
// why the library cannot be initialised anew.
func TestHS16_PrivateKeysThatAreOwedWaitForACallThatHangs(t *testing.T) {
	s, cfg, lame := afterALameSlot(t)
	r := hsmtest.Open(t, cfg)
	handle := newKey(t, r, kms.Encryption)
	lame()
	initialisedAnew(t, s, r, handle)
	s.fail("C_GenerateRandom", fault{hold: true})
	t.Cleanup(func() { s.free("C_GenerateRandom") })
	is(t, r.Random(t.Context(), make([]byte, 8)), kms.ErrUnavailable)
	s.fail("C_GenerateRandom", fault{}) // others do not hang
	s.fail("C_Encrypt", fault{code: pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, times: 1})
	eventually(t, func() bool {
		_, err := r.Encrypt(t.Context(), handle, nil, nil)
		return err == nil
	})
}
