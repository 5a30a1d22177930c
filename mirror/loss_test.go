package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/local"
	"github.com/keygate/keygate/mirror"
)

var losses = map[string]failure{"refused": refuses, "hung": hangs, "denied": denies, "another root": strange, "a driver that panics": panics}

// Whichever of the two is lost, and however: all that was made opens, new keys are
// refused with what is wrong, and when it is back all is as before.
func TestHS17_LoseEither(t *testing.T) {
	for name, how := range losses {
		for i, which := range []string{"first", "second"} {
			t.Run(which+" "+name, func(t *testing.T) {
				t.Parallel()
				w := locals(t, "")
				s := w.sample(t)
				w.sides[i].set(how)
				s.opens(t, w.Root) // before it is known
				w.lose(t, i, how)
				s.opens(t, w.Root)
				if got := w.Degraded(); len(got) != 1 || got[0] != which {
					t.Errorf("degraded is %v", got)
				}
				w.refusesToWrite(t, s, how, which)
				w.mend(t)
				s.opens(t, w.Root)
				w.sample(t).opens(t, w.Root)
				if st := w.Stats().Roots[i]; st.Lost != 1 || st.Missing != 0 || st.Away {
					t.Errorf("figures are %+v", st)
				}
			})
		}
	}
}

// refusesToWrite checks that nothing is made with one root only.
func (w *world) refusesToWrite(t *testing.T, s sample, how failure, which string) {
	t.Helper()
	want := kms.ErrUnavailable
	if how == denies {
		want = kms.ErrDenied
	}
	_, encryption := w.NewKey(t.Context(), kms.KeyID{}, kms.Encryption)
	_, authentication := w.NewKey(t.Context(), kms.KeyID{}, kms.Authentication)
	_, imported := w.ImportKey(t.Context(), kms.KeyID{}, kms.Encryption, make([]byte, kms.KeySize))
	_, encrypt := w.Encrypt(t.Context(), s.encryption, nil, nil)
	for _, err := range []error{encryption, authentication, imported, encrypt, w.DestroyKey(t.Context(), s.imported)} {
		is(t, err, want)
		says(t, err, "the "+which+" root (local) is away")
	}
}

// A root that hangs costs each call no more than a moment, and none once it is known.
func TestHS17_AHungRootIsNotWaitedFor(t *testing.T) {
	w := locals(t, "")
	s := w.sample(t)
	w.sides[0].set(hangs)
	start := time.Now()
	s.opens(t, w.Root)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("ten calls took %v", took)
	}
	w.lose(t, 0, hangs)
	start = time.Now()
	for range 100 {
		s.opens(t, w.Root)
	}
	// 20 ms for each of 600 calls would be 12 s.
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("600 calls took %v with a root that is known to hang", took)
	}
}

func TestHS17_BothLost(t *testing.T) {
	w := locals(t, mirror.DegradedAllowed)
	s := w.sample(t)
	w.lose(t, 0, refuses)
	w.lose(t, 1, hangs)
	_, decrypt := w.Decrypt(t.Context(), s.encryption, s.ciphertexts[0], []byte(sampleData))
	_, bad := w.Decrypt(t.Context(), s.encryption, s.ciphertexts[0], nil)
	_, encrypt := w.Encrypt(t.Context(), s.encryption, nil, nil)
	_, mac := w.MAC(t.Context(), nil, nil)
	for _, err := range []error{decrypt, bad, encrypt, mac, w.Status(t.Context()), w.Random(t.Context(), make([]byte, 1))} {
		is(t, err, kms.ErrUnavailable)
	}
	w.mend(t)
	s.opens(t, w.Root)
}

// What opens only by a root that is away is unavailable, not bad.
func TestHS17_DegradedAllowed(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			w := locals(t, mirror.DegradedAllowed)
			whole := w.sample(t)
			w.lose(t, i, refuses)
			c, err := w.Encrypt(t.Context(), whole.encryption, []byte("made with one"), nil)
			ok(t, err)
			if !w.Partial(c) || w.Partial(whole.ciphertexts[0]) {
				t.Error("it does not tell which ciphertext has one half")
			}
			if n := w.Stats().Roots[i].Missing; n != 1 {
				t.Errorf("%d ciphertexts are counted", n)
			}
			_, err = w.NewKey(t.Context(), kms.KeyID{}, kms.Encryption)
			is(t, err, kms.ErrUnavailable)
			opens := func() {
				t.Helper()
				if p, err := w.Decrypt(t.Context(), whole.encryption, c, nil); err != nil || string(p) != "made with one" {
					t.Errorf("%q, %v", p, err)
				}
			}
			opens()
			w.mend(t)
			opens()
			again, err := w.Encrypt(t.Context(), whole.encryption, []byte("made with one"), nil)
			ok(t, err)
			if w.Partial(again) {
				t.Error("a ciphertext has one half though both roots are there")
			}
			w.lose(t, 1-i, refuses)
			_, err = w.Decrypt(t.Context(), whole.encryption, c, nil)
			is(t, err, kms.ErrUnavailable)
			_, err = w.Decrypt(t.Context(), whole.encryption, c, []byte("another context")) // it cannot be known
			is(t, err, kms.ErrUnavailable)
			whole.opens(t, w.Root)
		})
	}
}

// A root that returns wrong bytes, or takes good ciphertexts for bad, is found out
// when data is encrypted, and when it is opened the other root is believed.
func TestHS12_HS17_WrongAnswers(t *testing.T) {
	for name, how := range map[string]failure{"lies": lies, "blind": blind} {
		for i := range 2 {
			t.Run(fmt.Sprint(name, " ", i), func(t *testing.T) {
				w := locals(t, "")
				s := w.sample(t)
				w.sides[i].set(how)
				for j, h := range [][]byte{s.encryption, s.imported} {
					if p, err := w.Decrypt(t.Context(), h, s.ciphertexts[j], []byte(sampleData)); err != nil || string(p) != samplePlaintext {
						t.Errorf("%q, %v", p, err)
					}
				}
				_, err := w.Encrypt(t.Context(), s.encryption, []byte("x"), nil)
				is(t, err, kms.ErrUnavailable)
				if how == lies {
					_, err = w.NewKey(t.Context(), kms.KeyID{}, kms.Authentication)
					is(t, err, kms.ErrUnavailable)
				}
				if n := w.Stats().Disagreements; how == blind && i == 0 && n == 0 {
					t.Error("no disagreement was counted")
				}
			})
		}
	}
}

// One root says that a ciphertext is bad, and the other cannot be asked: it is bad. A
// root that has failed does not say so.
func TestHS17_BadWhileOneIsAway(t *testing.T) {
	for i := range 2 {
		w := locals(t, "")
		s := w.sample(t)
		w.lose(t, i, refuses)
		for bit := 0; bit < len(s.ciphertexts[0])*8; bit += 3 {
			changed := append([]byte(nil), s.ciphertexts[0]...)
			changed[bit/8] ^= 1 << (bit % 8)
			if bit/8 < len(changed)-mirror.SumSize {
				changed = mirror.Resum(changed) // else the hash finds it
			}
			p, err := w.Decrypt(t.Context(), s.encryption, changed, []byte(sampleData))
			if p != nil || err == nil {
				t.Fatalf("root %d is away, bit %d: it opens", i, bit)
			}
			// A change may say that there is no half but that of the root that is away.
			if !errors.Is(err, kms.ErrUnavailable) {
				is(t, err, kms.ErrCiphertext)
			}
		}
	}
}

// A gateway starts with either root, and the other one is opened when it can be.
func TestHS17_StartWithEither(t *testing.T) {
	for i := range 2 {
		for name, how := range map[string]failure{"refused": refuses, "hung": hangs} {
			t.Run(fmt.Sprint(i, " ", name), func(t *testing.T) {
				t.Parallel()
				w := locals(t, "")
				s := w.sample(t)
				var other frail
				members := [2]mirror.Member{{Kind: "local", Open: func(context.Context) (kms.Root, error) { return unclosed{w.sides[0].Root}, nil }},
					{Kind: "local", Open: func(context.Context) (kms.Root, error) { return unclosed{w.sides[1].Root}, nil }}}
				members[i] = other.member(members[i])
				other.set(how)
				r := opened(t, mirror.OpenQuick, w.cfg, members[0], members[1])
				s.opens(t, r)
				if len(r.Degraded()) != 1 {
					t.Error("it is not degraded")
				}
				if how == hangs {
					return // Open itself hangs until the mirror is closed
				}
				other.set(well)
				until(t, "the other one is opened", func() bool { return len(r.Degraded()) == 0 })
				s.opens(t, r)
			})
		}
	}
}

// unclosed is a root that belongs to somebody else.
type unclosed struct{ kms.Root }

func (unclosed) Close() error { return nil }

// A refused PIN is tried once.
func TestHS14_HS17_AFinalRefusalIsNotTriedAgain(t *testing.T) {
	w := locals(t, "")
	s := w.sample(t)
	refused := errors.New("the PIN was refused")
	var tries atomic.Int32
	first := mirror.Member{Kind: "pkcs11", Open: func(context.Context) (kms.Root, error) { tries.Add(1); return nil, refused },
		Final: func(err error) bool { return errors.Is(err, refused) }}
	r, err := mirror.OpenQuick(t.Context(), w.cfg, [2]mirror.Member{first, {Kind: "local", Open: func(context.Context) (kms.Root, error) { return unclosed{w.sides[1].Root}, nil }}}, quiet())
	ok(t, err)
	s.opens(t, r)
	time.Sleep(200 * time.Millisecond) // ten times the time between tries
	s.opens(t, r)
	ok(t, r.Close())
	if n := tries.Load(); n != 1 {
		t.Errorf("it was opened %d times", n)
	}
	if _, err := mirror.OpenQuick(t.Context(), w.cfg, [2]mirror.Member{first, first}, quiet()); !errors.Is(err, refused) {
		t.Errorf("with both refused: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	w := locals(t, "")
	text, err := os.ReadFile(w.cfg.RecordKeyFile)
	ok(t, err)
	lines := strings.SplitAfter(string(text), "\n")
	for name, c := range map[string]struct {
		text, want string
		mode       os.FileMode
	}{
		"empty":         {"", "no record key", 0o600},
		"cut":           {string(text[:len(text)-1]), "no record key", 0o600},
		"longer":        {string(text) + "\n", "no record key", 0o600},
		"another head":  {"x" + string(text), "no record key", 0o600},
		"no base64":     {lines[0] + "!" + lines[1] + lines[2], "no record key", 0o600},
		"no handle":     {lines[0] + lines[2] + lines[2], "key handle: damaged", 0o600},
		"far too long":  {string(text) + strings.Repeat("\n", 10_000), "no record key", 0o600},
		"for all":       {string(text), "others may write it", 0o622},
		"another check": {lines[0] + lines[1] + "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", "another than that of record_key_file", 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := w.cfg
			cfg.RecordKeyFile = t.TempDir() + "/record-key"
			ok(t, os.WriteFile(cfg.RecordKeyFile, []byte(c.text), c.mode))
			ok(t, os.Chmod(cfg.RecordKeyFile, c.mode))
			_, err := mirror.OpenQuick(t.Context(), cfg, w.m, quiet())
			says(t, err, c.want)
		})
	}
	cfg := w.cfg
	cfg.RecordKeyFile += ".none"
	_, err = mirror.OpenQuick(t.Context(), cfg, w.m, quiet())
	says(t, err, "keygate root init makes it")
	_, err = mirror.OpenQuick(t.Context(), w.cfg, [2]mirror.Member{w.m[1], w.m[0]}, quiet())
	says(t, err, "first and second have changed places")
	is(t, err, kms.ErrCorrupt)
	for _, cfg := range []mirror.Config{{}, {RecordKeyFile: "f", Degraded: "maybe"}} {
		if cfg.Check() == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

func TestInitNeverOverwrites(t *testing.T) {
	w := locals(t, "")
	before, err := os.ReadFile(w.cfg.RecordKeyFile)
	ok(t, err)
	made, err := mirror.Init(t.Context(), w.cfg, w.m, quiet())
	if made || err != nil {
		t.Errorf("a second init: made %t, %v", made, err)
	}
	_, err = mirror.Init(t.Context(), w.cfg, [2]mirror.Member{localMember(t), localMember(t)}, quiet())
	is(t, err, kms.ErrCorrupt) // other roots
	after, err := os.ReadFile(w.cfg.RecordKeyFile)
	if err != nil || string(after) != string(before) {
		t.Error("the file was changed")
	}
	cfg := w.cfg
	cfg.RecordKeyFile += ".new"
	_, err = mirror.Init(t.Context(), cfg, [2]mirror.Member{w.m[0], {Open: func(context.Context) (kms.Root, error) {
		return local.Open(local.Config{File: t.TempDir() + "/none"})
	}}}, quiet())
	if _, there := os.Stat(cfg.RecordKeyFile); err == nil || there == nil {
		t.Errorf("with one root: %v", err)
	}
}
