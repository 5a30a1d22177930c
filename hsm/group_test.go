package hsm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
	"github.com/keygate/keygate/softhsm"
)

// pair returns the configuration of two tokens with the same root keys, each in a
// library of its own behind a shim of its own.
func pair(t *testing.T) ([2]*shim, hsm.Config) {
	t.Helper()
	f := softhsm.Token(t)
	cfg := configOf(f)
	_, err := hsm.Init(t.Context(), cfg)
	ok(t, err)
	return pairOf(t, f, softhsm.Clone(t, f))
}

func pairOf(t *testing.T, tokens ...softhsm.Fixture) (shims [2]*shim, cfg hsm.Config) {
	t.Helper()
	cfg = hsm.Config{PIN: hsm.PIN{File: tokens[0].PINFile}, Sessions: 4, Timeout: time.Second}
	for i, f := range tokens {
		s, one := shimBefore(t, f, softhsm.CopyOfModule(t, f), configOf(f))
		shims[i] = s
		cfg.Tokens = append(cfg.Tokens, hsm.TokenConfig{Module: one.Module, Token: f.Label, PIN: &one.PIN})
	}
	return shims, cfg
}

// unplug makes a token answer as if it were no longer there.
func (s *shim) unplug() {
	for _, function := range p11shim.Functions[4:] {
		if function != "C_CloseSession" {
			s.fail(function, fault{code: pkcs11.CKR_TOKEN_NOT_PRESENT, times: forever})
		}
	}
	s.fail("C_GetSlotList", fault{code: pkcs11.CKR_OK, times: forever})
}

func TestRootGroup(t *testing.T) {
	_, cfg := pair(t)
	roottest.Run(t, func(t *testing.T) kms.Root { return hsmtest.Open(t, cfg) })
}

func TestHS16_OpsAreSpreadOverTheTokens(t *testing.T) {
	shims, cfg := pair(t)
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	for range 100 {
		ciphertext, err := root.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
		ok(t, err)
		plaintext, err := root.Decrypt(t.Context(), handle, ciphertext, nil)
		ok(t, err)
		if string(plaintext) != "plaintext" {
			t.Fatalf("it opens to %q", plaintext)
		}
	}
	for i, s := range shims {
		if n := s.calls("C_Encrypt"); n < 20 {
			t.Errorf("token %d encrypted %d times", i, n)
		}
	}
}

// Each fault of one of two tokens, while the other works: no op fails.
func TestHS16_NoOpFailsWhileOneTokenWorks(t *testing.T) {
	shims, cfg := pair(t)
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	for name, begin := range map[string]func(s *shim){
		"gone":   (*shim).unplug,
		"fails":  func(s *shim) { s.fail("C_EncryptInit", fault{code: pkcs11.CKR_DEVICE_ERROR, times: forever}) },
		"throws": func(s *shim) { s.fail("C_GenerateKey", fault{code: pkcs11.CKR_DEVICE_MEMORY, times: forever}) },
		"no slot": func(s *shim) {
			s.fail("C_GetSlotList", fault{code: pkcs11.CKR_OK, times: forever})
			s.fail("C_SignInit", fault{code: pkcs11.CKR_USER_NOT_LOGGED_IN, times: forever})
		},
		"hangs":      func(s *shim) { s.fail("C_EncryptInit", fault{sleep: time.Hour}) },
		"logged out": func(s *shim) { s.fail("C_EncryptInit", fault{code: pkcs11.CKR_USER_NOT_LOGGED_IN, times: forever}) },
	} {
		for i, s := range shims {
			t.Run(name, func(t *testing.T) {
				begin(s)
				for range 60 {
					useGroup(t, root, handle)
				}
				s.heal()
				waitFor(t, func() bool { return root.Tokens()[i].Works })
			})
		}
	}
	if root.Moved() == 0 {
		t.Error("no op was moved")
	}
}

// useGroup does each kind of op once and checks the answers.
func useGroup(t *testing.T, root *hsm.Root, handle []byte) {
	t.Helper()
	ctx := t.Context()
	ciphertext, err := root.Encrypt(ctx, handle, []byte("plaintext"), []byte("context"))
	ok(t, err)
	plaintext, err := root.Decrypt(ctx, handle, ciphertext, []byte("context"))
	ok(t, err)
	if string(plaintext) != "plaintext" {
		t.Fatalf("it opens to %q", plaintext)
	}
	one, err := root.MAC(ctx, nil, []byte("message"))
	ok(t, err)
	two, err := root.MAC(ctx, nil, []byte("message"))
	ok(t, err)
	if one != two {
		t.Fatal("two MACs of the same differ")
	}
	ok(t, root.Random(ctx, make([]byte, 32)))
	newKey(t, root, kms.Encryption)
}

// Under load one of two tokens goes away and comes back, again and again.
func TestHS16_ATokenThatGoesAndComesCostsNoOp(t *testing.T) {
	shims, cfg := pair(t)
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	rounds := 4
	if os.Getenv("KEYGATE_LONG") != "" {
		rounds = 100
	}
	ctx, stop := context.WithCancel(t.Context())
	var done, failed atomic.Int64
	var mu sync.Mutex
	var times []time.Duration // of an encryption and a decryption
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				begin := time.Now()
				ciphertext, err := root.Encrypt(context.Background(), handle, []byte("plaintext"), nil)
				if err == nil {
					_, err = root.Decrypt(context.Background(), handle, ciphertext, nil)
				}
				if err != nil {
					failed.Add(1)
					t.Error(err)
				}
				done.Add(1)
				mu.Lock()
				times = append(times, time.Since(begin))
				mu.Unlock()
			}
		})
	}
	for round := range rounds {
		i := round % 2
		before := done.Load()
		shims[i].unplug()
		waitFor(t, func() bool { return !root.Tokens()[i].Works && done.Load() > before+50 })
		shims[i].heal()
		waitFor(t, func() bool { return root.Tokens()[i].Works })
	}
	stop()
	wg.Wait()
	slices.Sort(times)
	t.Logf("%d rounds, %d pairs of ops, %d failed; p50 %v, p99 %v, slowest %v", rounds, done.Load(), failed.Load(), times[len(times)/2], times[len(times)*99/100], times[len(times)-1])
}

func TestHS16_ATokenWithOtherKeysIsRefused(t *testing.T) {
	one, two := softhsm.Token(t), softhsm.Token(t)
	for _, f := range []softhsm.Fixture{one, two} {
		_, err := hsm.Init(t.Context(), configOf(f))
		ok(t, err)
	}
	_, cfg := pairOf(t, one, two)
	_, err := hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	is(t, err, kms.ErrDenied)
	says(t, err, "key than before, or than the others")
}

// A token that was out of reach at the start is used when it comes, if it has the
// keys of the others, and refused for good if not.
func TestHS16_ATokenThatComesLateIsLookedAt(t *testing.T) {
	shims, cfg := pair(t)
	shims[1].unplug()
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	useGroup(t, root, handle)
	if away := root.Degraded(); root.Tokens()[1].Works || len(away) != 1 || !strings.Contains(away[0], shims[1].fixture.Label) {
		t.Fatalf("a token that is not there works; away is %q", away)
	}
	shims[1].heal()
	waitFor(t, func() bool { return root.Tokens()[1].Works && root.Degraded() == nil })
	shims[0].unplug()
	for range 20 {
		useGroup(t, root, handle)
	}
}

func TestHS16_AForeignTokenThatComesLateIsRefused(t *testing.T) {
	one, two := softhsm.Token(t), softhsm.Token(t)
	for _, f := range []softhsm.Fixture{one, two} {
		_, err := hsm.Init(t.Context(), configOf(f))
		ok(t, err)
	}
	shims, cfg := pairOf(t, one, two)
	shims[1].unplug()
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	shims[1].heal()
	waitFor(t, func() bool { return strings.Contains(root.Tokens()[1].Why, "key than before, or than the others") })
	for range 50 {
		useGroup(t, root, handle)
	}
	if s := root.Tokens()[1]; s.Works {
		t.Errorf("the foreign token is in use: %+v", s)
	}
}

// The PIN of one token is wrong: it is tried once, and the other serves. That is so
// only if it becomes wrong later: at the start it is an error of the configuration.
func TestF26_AWrongPINOfOneTokenIsTriedOnce(t *testing.T) {
	shims, cfg := pair(t)
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	before := shims[0].calls("C_Login")
	shims[0].fail("C_Login", fault{code: pkcs11.CKR_PIN_INCORRECT, times: forever})
	shims[0].fail("C_EncryptInit", fault{code: pkcs11.CKR_USER_NOT_LOGGED_IN, times: 4})
	shims[0].fail("C_GetSessionInfo", fault{code: pkcs11.CKR_SESSION_HANDLE_INVALID, times: 1}) // it has to log in again
	for range 100 {
		useGroup(t, root, handle)
		time.Sleep(20 * time.Millisecond)
	}
	if got := shims[0].calls("C_Login") - before; got > 1 {
		t.Errorf("it logged in %d times with a PIN that was refused", got)
	}
}

// A slot number names a token once: after slots were renumbered it is found by its
// serial number.
func TestHS15_ATokenIsFoundAfterItsSlotWasRenumbered(t *testing.T) {
	f := openFaulty(t)
	slot, err := hsm.SlotOf(t.Context(), f.cfg.Module, f.fixture.Label)
	ok(t, err)
	cfg := f.cfg
	cfg.Token, cfg.Slot = "", &slot
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	if label := root.Token().Label; label != f.fixture.Label {
		t.Fatalf("slot %d has token %q", slot, label)
	}
	wrong := slot + 1
	cfg.Slot = &wrong
	_, err = hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	is(t, err, kms.ErrUnavailable)
	says(t, err, "in slot")
	f.renumber(1000)
	f.fail("C_EncryptInit", fault{code: pkcs11.CKR_USER_NOT_LOGGED_IN, times: 1})
	_, err = root.Encrypt(t.Context(), handle, nil, nil)
	ok(t, err)
}

func TestTokensOfAConfiguration(t *testing.T) {
	slot := uint(7)
	base := hsm.Config{Module: "/m.so", PIN: hsm.PIN{File: "/pin"}}
	for _, test := range []struct {
		tokens []hsm.TokenConfig
		want   string // of the error
	}{
		{[]hsm.TokenConfig{{Token: "a"}, {Token: "b"}}, ""},
		{[]hsm.TokenConfig{{Token: "a", Serial: "1"}, {Token: "a", Serial: "2"}}, ""},
		{[]hsm.TokenConfig{{Token: "a"}, {Token: "a", Module: "/n.so"}}, ""},
		{[]hsm.TokenConfig{{Slot: &slot}}, ""},
		{[]hsm.TokenConfig{{URI: "pkcs11:token=my%20token;serial=12?module-path=/x.so&pin-source=file:/etc/pin"}}, ""},
		{[]hsm.TokenConfig{{Token: "a"}, {Token: "a"}}, "tokens.1.token: it is the same as that of tokens.0"},
		{[]hsm.TokenConfig{{Token: "a"}, {}}, "tokens.1.token: the label of the token is missing"},
		{[]hsm.TokenConfig{{URI: "token=a"}}, "tokens.0.uri: it does not begin with the scheme pkcs11"},
		{[]hsm.TokenConfig{{URI: "pkcs11:token=a?pin-value=1234"}}, "pin-value: a PIN does not belong into a configuration"},
		{[]hsm.TokenConfig{{URI: "pkcs11:token=a;object=b"}}, "tokens.0.uri: object is not known here"},
		{[]hsm.TokenConfig{{URI: "pkcs11:token=a;token=b"}}, "token is there twice"},
		{[]hsm.TokenConfig{{URI: "pkcs11:token=%zz"}}, "tokens.0.uri: token: invalid URL escape"},
		{[]hsm.TokenConfig{{URI: "pkcs11:token=a?pin-source=|cat"}}, "pin-source: \"|cat\" is not file:/PATH"},
		{[]hsm.TokenConfig{{URI: "pkcs11:slot-id=x"}}, "slot-id: \"x\" is not a number"},
	} {
		cfg := base
		cfg.Tokens = test.tokens
		err := cfg.Check()
		switch {
		case test.want == "":
			ok(t, err)
		case err == nil:
			t.Errorf("%+v is accepted", test.tokens)
		default:
			says(t, err, test.want)
			if strings.Contains(err.Error(), "1234") {
				t.Error("the error shows a PIN")
			}
		}
	}
	cfg := base
	cfg.Tokens = []hsm.TokenConfig{{URI: "pkcs11:token=my%20token;serial=12;slot-id=3?module-path=/x.so&pin-source=file:/etc/pin"}, {Token: "b"}}
	got := cfg.EachToken()
	if g := got[0]; g.Module != "/x.so" || g.Token != "my token" || g.Serial != "12" || *g.Slot != 3 || g.PIN.File != "/etc/pin" {
		t.Errorf("the URI is %+v", g)
	}
	if g := got[1]; g.Module != "/m.so" || g.Token != "b" || g.PIN.File != "/pin" || len(g.Tokens) > 0 {
		t.Errorf("the second token is %+v", g)
	}
	if !slices.ContainsFunc(got, func(c hsm.Config) bool { return errors.Is(c.Check(), nil) }) {
		t.Error("a configuration of one token is refused")
	}
}

// However long an op may wait for one token, there is time for it in another.
func TestHS16_ATokenThatHangsLeavesTimeForAnother(t *testing.T) {
	shims, cfg := pair(t)
	cfg.Queue.Wait = cfg.Timeout
	root := hsmtest.Open(t, cfg)
	handle := newKey(t, root, kms.Encryption)
	shims[0].fail("C_EncryptInit", fault{sleep: time.Hour})
	for range 8 {
		_, err := root.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
		ok(t, err)
	}
	if root.Tokens()[0].Works {
		t.Error("a token that hangs is in use")
	}
	shims[0].heal()
	waitFor(t, func() bool { return root.Tokens()[0].Works })
}

// Many keys are asked for at once that are not loaded, in tokens that take their time:
// that they have much to do is no reason to put both out of use.
func TestHS16_AColdStartTripsNoToken(t *testing.T) {
	shims, cfg := pair(t)
	cfg.Sessions, cfg.Timeout = 16, 2*time.Second
	maker := hsmtest.Open(t, cfg)
	var handles, sealed [][]byte
	for range 300 {
		h := newKey(t, maker, kms.Encryption)
		c, err := maker.Encrypt(t.Context(), h, []byte("plaintext"), nil)
		ok(t, err)
		handles, sealed = append(handles, h), append(sealed, c)
	}
	for name, cfg := range map[string]hsm.Config{"in-process": cfg, "worker": isolated(cfg)} {
		t.Run(name, func(t *testing.T) {
			root := hsmtest.Open(t, cfg)
			for _, s := range shims {
				s.fail("C_UnwrapKey", fault{sleep: 60 * time.Millisecond})
			}
			defer func() { shims[0].heal(); shims[1].heal() }()
			var wg sync.WaitGroup
			var failed atomic.Int64
			for i, h := range handles {
				wg.Go(func() {
					if _, err := root.Decrypt(caller(t, fmt.Sprint(i)), h, sealed[i], nil); err != nil {
						failed.Add(1)
						is(t, err, kms.ErrUnavailable)
					}
				})
			}
			wg.Wait()
			t.Logf("%d of %d failed, %d were moved", failed.Load(), len(handles), root.Moved())
			for _, st := range root.Tokens() {
				if st.Trips != 0 {
					t.Errorf("%s was put out of use: %v", st.Name, st.Why)
				}
			}
		})
	}
}
