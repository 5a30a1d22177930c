package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
)

// TestMain lets the test binary be the worker process of its roots. With the race
// detector a process sleeps for a second before it exits, unless told otherwise.
func TestMain(m *testing.M) {
	if hsm.IsWorker() {
		if how := os.Getenv(hostileEnv); how != "" {
			beHostile(how)
		}
		fmt.Fprintln(os.Stderr, hsm.Worker())
		os.Exit(1)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	goleak.VerifyTestMain(m)
}

func TestRoot(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root { return hsmtest.Root(t) })
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, not %v", err, want)
	}
}

func says(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("error is %v, without %q", err, text)
	}
}

// refused opens a root that must not open.
func refused(t *testing.T, cfg hsm.Config) error {
	t.Helper()
	r, err := hsm.Open(t.Context(), cfg, quiet())
	if err == nil {
		r.Close()
		t.Fatal("it opens")
	}
	return err
}

func newKey(t *testing.T, r kms.Root, purpose kms.Purpose) []byte {
	t.Helper()
	handle, err := r.NewKey(t.Context(), kms.KeyID{1}, purpose)
	ok(t, err)
	return handle
}

func TestKeysOutliveTheProcess(t *testing.T) {
	cfg := hsmtest.Config(t)
	r, err := hsm.Open(t.Context(), cfg, quiet())
	ok(t, err)
	handle := newKey(t, r, kms.Encryption)
	ciphertext, err := r.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
	ok(t, err)
	mac, err := r.MAC(t.Context(), nil, []byte("record"))
	ok(t, err)
	ok(t, r.Close())

	r = hsmtest.Open(t, cfg)
	got, err := r.Decrypt(t.Context(), handle, ciphertext, nil)
	ok(t, err)
	if !bytes.Equal(got, []byte("plaintext")) {
		t.Errorf("plaintext is %q", got)
	}
	again, err := r.MAC(t.Context(), nil, []byte("record"))
	ok(t, err)
	if again != mac {
		t.Error("the record key is another one")
	}
}

func TestHandleOfAnotherTokenIsCorrupt(t *testing.T) {
	one, two := hsmtest.Root(t), hsmtest.Root(t)
	handle := newKey(t, one, kms.Encryption)
	_, err := two.Encrypt(t.Context(), handle, nil, nil)
	is(t, err, kms.ErrCorrupt)
	says(t, err, "KEK")
}

func TestTwoRootsShareTheModule(t *testing.T) {
	cfg := hsmtest.Config(t)
	one := hsmtest.Open(t, cfg)
	two, err := hsm.Open(t.Context(), cfg, quiet())
	ok(t, err)
	handle := newKey(t, one, kms.Encryption)
	ciphertext, err := two.Encrypt(t.Context(), handle, []byte("plaintext"), nil)
	ok(t, err)
	ok(t, two.Close()) // and with it neither the module nor the login
	_, err = one.Decrypt(t.Context(), handle, ciphertext, nil)
	ok(t, err)
}

func TestOpenRefusesWhatItCannotUse(t *testing.T) {
	cfg := hsmtest.Empty(t)
	t.Run("no root keys", func(t *testing.T) {
		says(t, refused(t, cfg), "keygate hsm init")
	})
	t.Run("no such module", func(t *testing.T) {
		cfg := cfg
		cfg.Module = "/nonexistent/module.so"
		says(t, refused(t, cfg), "/nonexistent/module.so cannot be loaded: ")
		says(t, refused(t, cfg), "No such file or directory") // what dlopen says
	})
	t.Run("not a module", func(t *testing.T) {
		cfg := cfg
		cfg.Module = "libm.so.6"
		says(t, refused(t, cfg), "C_GetFunctionList")
	})
	t.Run("no such token", func(t *testing.T) {
		cfg := cfg
		cfg.Token = "another"
		err := refused(t, cfg)
		says(t, err, `"another"`)
		says(t, err, `it shows "`) // which there are
		says(t, err, "SOFTHSM2_CONF")
	})
	t.Run("another serial number", func(t *testing.T) {
		cfg := cfg
		cfg.Serial = "0000"
		says(t, refused(t, cfg), `"0000"`)
	})
	t.Run("HS-15 two tokens with one label", func(t *testing.T) {
		first := serials(t, cfg)
		ok(t, hsm.InitSecondToken(t.Context(), cfg.Module, cfg.Token, "officer pin", "user pin"))
		err := refused(t, cfg)
		is(t, err, kms.ErrUnavailable)
		says(t, err, "root.pkcs11.serial")
		both := serials(t, cfg)
		if len(first) != 1 || len(both) != 2 {
			t.Fatalf("there was %q and then %q", first, both)
		}
		for _, serial := range both {
			says(t, err, serial)
		}
	})
}

// serials returns the serial numbers of the tokens that have the label of cfg.
func serials(t *testing.T, cfg hsm.Config) []string {
	t.Helper()
	all, err := hsm.Serials(t.Context(), cfg.Module, cfg.Token)
	ok(t, err)
	return all
}

func TestInitTokenMakesNoSecondTokenOfALabel(t *testing.T) {
	cfg := hsmtest.Empty(t)
	before := serials(t, cfg)
	is(t, hsm.InitToken(t.Context(), cfg.Module, cfg.Token, "officer pin", "user pin"), hsm.ErrTokenExists)
	if after := serials(t, cfg); !slices.Equal(before, after) {
		t.Errorf("the tokens of the label were %q and are %q", before, after)
	}
	_, err := hsm.Init(t.Context(), cfg) // with the PIN that it had
	ok(t, err)
}

func TestOpenEndsWithItsContext(t *testing.T) {
	cfg := hsmtest.Config(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := hsm.Open(ctx, cfg, quiet())
	is(t, err, context.Canceled)
}

func TestInitDoesNothingTwice(t *testing.T) {
	cfg := hsmtest.Empty(t)
	made, err := hsm.Init(t.Context(), cfg)
	ok(t, err)
	if !made.KEK || !made.RecordKey || made.Token.Label != cfg.Token {
		t.Errorf("the first Init made %+v", made)
	}
	r := hsmtest.Open(t, cfg)
	before, err := r.MAC(t.Context(), nil, nil)
	ok(t, err)
	made, err = hsm.Init(t.Context(), cfg)
	ok(t, err)
	if made.KEK || made.RecordKey {
		t.Errorf("the second Init made %+v", made)
	}
	again := hsmtest.Open(t, cfg)
	after, err := again.MAC(t.Context(), nil, nil)
	ok(t, err)
	if before != after {
		t.Error("a second Init changed the record key")
	}
}
