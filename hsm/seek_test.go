package hsm_test

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/softhsm"
)

// SoftHSM hides a token while another process writes to its file, at each login: it is
// hidden here for longer than a look takes, and shorter than a search.
func TestHS08_ATokenThatIsHiddenForAMoment(t *testing.T) {
	f := softhsm.Token(t)
	cfg := hsm.Config{Module: f.Module, Token: f.Label, PIN: hsm.PIN{File: f.PINFile}}
	_, err := hsm.Init(t.Context(), cfg)
	ok(t, err)
	for name, use := range map[string]func() error{
		"Open": func() error {
			r, err := hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			return r.Close()
		},
		"InitToken": func() error {
			if err := hsm.InitToken(t.Context(), f.Module, f.Label, f.SOPIN, "another PIN"); !errors.Is(err, hsm.ErrTokenExists) {
				return fmt.Errorf("it made another: %v", err)
			}
			return nil
		},
		"Init":    func() error { _, err := hsm.Init(t.Context(), cfg); return err },
		"Examine": func() error { _, err := hsm.Examine(t.Context(), cfg, hsm.Examination{}); return err },
	} {
		t.Run(name, func(t *testing.T) {
			bringBack, back := f.Remove(t), make(chan struct{})
			hidden := 100 * time.Millisecond
			if name == "InitToken" {
				hidden = 5 * time.Millisecond
			}
			time.AfterFunc(hidden, func() { defer close(back); bringBack() })
			defer func() { <-back }()
			ok(t, use())
		})
	}
}

// A token that has no PIN for its user yet, or says so while another process logs in,
// as SoftHSM does, has refused none.
func TestHS14_ATokenWithoutAPINHasNotRefusedOne(t *testing.T) {
	s, cfg := shimmed(t)
	s.fail("C_Login", fault{code: pkcs11.CKR_USER_PIN_NOT_INITIALIZED, times: 1})
	r := hsmtest.Open(t, cfg)
	ok(t, r.Status(t.Context()))
	if got := r.Stats(); got.PINsRefused != 0 || got.PINsWithheld != 0 {
		t.Errorf("%d PINs refused, %d withheld", got.PINsRefused, got.PINsWithheld)
	}
}
