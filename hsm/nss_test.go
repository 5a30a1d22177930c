package hsm_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
	"github.com/keygate/keygate/softhsm/nss"
)

// nssGaps are the rules that NSS softokn 3.87 does not keep.
var nssGaps = []string{"CKA_LOCAL", "CKA_UNWRAP_TEMPLATE"}

func nssConfig(t *testing.T) hsm.Config {
	t.Helper()
	cfg := nss.Config(t)
	cfg.Accept = nssGaps
	initStrictly(t, cfg)
	return cfg
}

// initStrictly makes root keys of which the KEK can never be replaced: NSS does not keep
// to what another one needs.
func initStrictly(t *testing.T, cfg hsm.Config) {
	t.Helper()
	_, err := hsm.InitWith(t.Context(), cfg, hsm.InitOptions{Strict: true})
	ok(t, err)
}

// NSS shares no code with SoftHSM, and has a padded wrapping of its own number.
func TestRootOnNSS(t *testing.T) {
	cfg := nssConfig(t)
	cfg.Wrapping = "aes-kwp"
	roottest.Run(t, func(t *testing.T) kms.Root { return hsmtest.Open(t, cfg) })
}

func TestNSSWraps(t *testing.T) {
	cfg := nssConfig(t)
	handle := wrapsWith(t, hsmtest.Open(t, cfg), kw)
	cfg.Wrapping = "aes-kwp"
	r := hsmtest.Open(t, cfg)
	wrapsWith(t, r, kwp)
	_, err := r.Encrypt(t.Context(), handle, nil, nil)
	ok(t, err)
	ok(t, r.OnSession(t.Context(), func(c hsm.Calls) {
		for _, test := range []struct {
			mechanism uint
			answer    []byte
		}{{pkcs11.CKM_AES_KEY_WRAP, hsm.AnswerKW}, {0x210B, hsm.AnswerKWP}} {
			if right, err := c.AnswersAs(test.mechanism, test.answer); err != nil || !right {
				t.Errorf("mechanism 0x%x: %v, %v", test.mechanism, right, err)
			}
		}
		if same, err := c.AnswersAs(pkcs11.CKM_AES_KEY_WRAP_PAD, hsm.AnswerKWP); err != nil || same {
			t.Errorf("CKM_AES_KEY_WRAP_PAD is RFC 5649 in NSS, which docs/hsm.md denies: %v, %v", same, err)
		}
	}))
	cfg.Wrapping = "aes-gcm"
	says(t, refused(t, cfg), "no mechanism for aes-gcm")
}

func TestHS18_WhatNSSDoesNotKeepIsRefusedUnlessAccepted(t *testing.T) {
	cfg := nss.Config(t)
	_, err := hsm.Init(t.Context(), cfg)
	is(t, err, kms.ErrUnsupported)
	says(t, err, "--rotatable=false")
	strict := hsm.InitOptions{Strict: true}
	_, err = hsm.InitWith(t.Context(), cfg, strict)
	is(t, err, kms.ErrDenied)
	says(t, err, "CKA_LOCAL")
	cfg.Accept = nssGaps[:1]
	_, err = hsm.InitWith(t.Context(), cfg, strict)
	is(t, err, kms.ErrDenied)
	says(t, err, "CKA_UNWRAP_TEMPLATE")
	is(t, refused(t, cfg), kms.ErrDenied)
	cfg.Accept = nssGaps
	initStrictly(t, cfg)

	var log bytes.Buffer
	r, err := hsm.Open(t.Context(), cfg, slog.New(slog.NewTextHandler(&log, nil)))
	ok(t, err)
	ok(t, r.Close())
	report, err := hsm.Doctor(t.Context(), cfg)
	ok(t, err)
	for _, gap := range []string{hsm.DefaultKEK + `": CKA_LOCAL`, hsm.DefaultRecordKey + `": CKA_LOCAL`, "refuse to unwrap a key so that it can be read"} {
		if !strings.Contains(strings.ReplaceAll(log.String(), `\`, ""), gap) {
			t.Errorf("the log does not say %s: %s", gap, log.String())
		}
		if !slices.ContainsFunc(report.Checks, func(c hsm.Check) bool {
			return strings.HasSuffix(c.What, gap) && strings.HasSuffix(c.Found, "accepted by root.pkcs11.accept") && c.Why != ""
		}) {
			t.Errorf("the doctor does not say that %s is accepted", gap)
		}
	}
}

// Only what was named is accepted, and only what may be.
func TestHS18_NothingElseIsAccepted(t *testing.T) {
	_, cfg := shimmed(t)
	cfg.Accept = []string{"CKA_EXTRACTABLE"}
	says(t, cfg.Check(), `accept: "CKA_EXTRACTABLE" is none of CKA_LOCAL, CKA_UNWRAP_TEMPLATE`)
}

// A token key that was made though the token said that it failed, or that it does not
// know an attribute, is not made again.
func TestRootKeysAreNotMadeTwiceAfterAFault(t *testing.T) {
	s, cfg := shimmed(t)
	kept := 0
	for skip := range 24 { // most keys are made to see which attributes the token knows
		cfg.KEK, cfg.RecordKey = fmt.Sprint("kek-", skip), fmt.Sprint("record-", skip)
		code := []uint{pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID}[skip%2]
		s.fail("C_GenerateKey", fault{code: code, times: 1, after: true, skip: skip})
		_, first := hsm.InitWith(t.Context(), cfg, hsm.InitOptions{Strict: true})
		s.heal()
		made, err := hsm.InitWith(t.Context(), cfg, hsm.InitOptions{Strict: true}) // it would refuse two of a label
		ok(t, err)
		if first != nil && !made.KEK {
			kept++
		}
	}
	if kept < 2 {
		t.Errorf("%d KEKs were made by a run that failed: the test shows nothing", kept)
	}
}
