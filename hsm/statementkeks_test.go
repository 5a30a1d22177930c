package hsm_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/softhsm"
)

// stateOf returns the statement of the one token of cfg.
func stateOf(t *testing.T, cfg hsm.Config) hsm.Statement {
	t.Helper()
	r := hsmtest.Open(t, cfg)
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	a, err := r.Attest(t.Context(), hsm.AttestRequest{})
	ok(t, err)
	st, err := hsm.VerifyStatement(a.Envelopes[0], key.Public())
	ok(t, err)
	return st
}

// A KEK that does not wrap new keys unwraps the others, so an auditor is told of it.
func TestHS18_AnAttestationHasAllKEKs(t *testing.T) {
	c := newCeremony(t)
	c.begin(t)
	st := stateOf(t, signing(t, c.after))
	i := slices.IndexFunc(st.Keys, func(k hsm.StatementKey) bool { return k.Label == hsm.DefaultKEK })
	if i < 0 || st.Keys[0].Label != nextKEK {
		t.Fatalf("the KEKs are not all there: %+v", st.Keys)
	}
	old := st.Keys[i]
	if old.Role != "other_kek" || len(old.Check) != 16 || old.Check == st.Keys[0].Check {
		t.Errorf("%+v", old)
	}
	if is := st.Keys[0].Attributes["CKA_TRUSTED"]; is == nil || !*is {
		t.Error("the new KEK is not said to be trusted")
	}
	if is := old.Attributes["CKA_TRUSTED"]; is == nil || *is {
		t.Error("the old KEK is said to be trusted, or nothing is said")
	}
	if st.TrustedKeys == nil || *st.TrustedKeys != 0 {
		t.Errorf("trusted keys that are no KEKs: %v", st.TrustedKeys)
	}
	yes := true
	st.Keys[i].Attributes["CKA_DECRYPT"] = &yes
	if weak := strings.Join(st.Weak(), "\n"); !strings.Contains(weak, `other_kek key "keygate-kek": CKA_DECRYPT is true`) {
		t.Errorf("weak is %q", weak)
	}
}

// A trusted key that is no KEK lets whoever has the PIN take master keys out.
func TestHS18_AnAttestationTellsOfTrustedKeysThatAreNoKEKs(t *testing.T) {
	c := newCeremony(t)
	cfg := c.before
	cfg.OtherKEKs = nil
	cfg = signing(t, cfg)
	as(t, c.f, func(r raw) {
		ok(t, r.Logout(r.session))
		ok(t, r.Login(r.session, pkcs11.CKU_SO, c.f.SOPIN))
		r.generate(pkcs11.CKM_AES_KEY_GEN, flags([]*pkcs11.Attribute{keySize}, map[uint]bool{
			pkcs11.CKA_TOKEN: true, pkcs11.CKA_PRIVATE: false, pkcs11.CKA_WRAP: true, pkcs11.CKA_DECRYPT: true, pkcs11.CKA_TRUSTED: true}))
	})
	st := stateOf(t, cfg)
	if weak := strings.Join(st.Weak(), "\n"); !strings.Contains(weak, "CKA_TRUSTED") {
		t.Errorf("weak is %q", weak)
	}
}

// What an operator accepts, an auditor is told of: a KEK without an unwrap template has
// all attributes as they should be.
func TestHS18_AnAttestationTellsOfAKEKThatGivesKeysAway(t *testing.T) {
	f := softhsm.Token(t)
	as(t, f, func(r raw) {
		r.make(kek, nil)
		r.make(recordKey, nil)
	})
	cfg := configOf(f)
	cfg.Accept = []string{"CKA_UNWRAP_TEMPLATE"}
	st := stateOf(t, signing(t, cfg))
	if st.Keys[0].Unwraps != "readable" || len(st.Broke) != 1 {
		t.Errorf("it says %q of the KEK, and that these rules are broken: %q", st.Keys[0].Unwraps, st.Broke)
	}
	weak := strings.Join(st.Weak(), "\n")
	for _, want := range []string{`kek key "keygate-kek": whoever has the PIN`, "root.pkcs11.accept", "no CKA_UNWRAP_TEMPLATE that the token keeps to"} {
		if !strings.Contains(weak, want) {
			t.Errorf("no word of %q in %q", want, weak)
		}
	}
}

// Each KEK is tried, and told of by itself.
func TestHS18_AnAttestationTellsWhichKEKGivesKeysAway(t *testing.T) {
	f := softhsm.Token(t)
	cfg := configOf(f)
	_, err := hsm.Init(t.Context(), cfg)
	ok(t, err)
	cfg.Accept, cfg.OtherKEKs = []string{"CKA_UNWRAP_TEMPLATE"}, []string{"bare", "bare too"}
	as(t, f, func(r raw) {
		r.generate(pkcs11.CKM_AES_KEY_GEN, flags(append(rootBase("bare", "23456789"), keySize), goodKEK))
		r.generate(pkcs11.CKM_AES_KEY_GEN, flags(append(rootBase("bare too", "34567890"), keySize), goodKEK))
	})
	st := stateOf(t, signing(t, cfg))
	unwraps := make(map[string]string)
	for _, k := range st.Keys {
		unwraps[k.Label] = k.Unwraps
	}
	if unwraps[hsm.DefaultKEK] != "hidden" || unwraps["bare"] != "readable" || unwraps["bare too"] != "readable" || unwraps[hsm.DefaultRecordKey] != "" {
		t.Errorf("it says %q", unwraps)
	}
	weak := strings.Join(st.Weak(), "\n")
	if !strings.Contains(weak, `other_kek key "bare": whoever`) || !strings.Contains(weak, `other_kek key "bare too": whoever`) || strings.Contains(weak, `kek key "keygate-kek"`) {
		t.Errorf("weak is %q", weak)
	}
}

// A token that does not know CKA_UNWRAP_TEMPLATE is taken, and whoever has the PIN reads
// what its KEK wraps.
func TestHS18_AnAttestationTellsOfATokenThatKnowsNoTemplate(t *testing.T) {
	f := softhsm.Token(t)
	as(t, f, func(r raw) {
		r.make(kek, nil)
		r.make(recordKey, nil)
	})
	s, cfg := shimBefore(t, f, f.Module, configOf(f))
	cfg = signing(t, cfg)
	before := s.calls("C_GetAttributeValue")
	says(t, refused(t, cfg), "no CKA_UNWRAP_TEMPLATE")
	// The last reads of it were of what a try has unwrapped, and of the KEK.
	s.fail("C_GetAttributeValue", fault{code: pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, times: forever, skip: s.calls("C_GetAttributeValue") - before - 2})
	r := hsmtest.Open(t, cfg)
	s.heal()
	a, err := r.Attest(t.Context(), hsm.AttestRequest{})
	ok(t, err)
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	st, err := hsm.VerifyStatement(a.Envelopes[0], key.Public())
	ok(t, err)
	if weak := st.Weak(); st.Keys[0].Unwraps != "unguarded" || len(weak) != 1 || !strings.Contains(weak[0], "the token does not know CKA_UNWRAP_TEMPLATE") {
		t.Errorf("it says %q of the KEK, weak is %q", st.Keys[0].Unwraps, weak)
	}
}

// A statement that does not say that all is well says that something is not.
func TestHS18_WhatAStatementDoesNotSayIsWeak(t *testing.T) {
	whole := stateOf(t, signing(t, hsmtest.Config(t)))
	if weak := whole.Weak(); len(weak) > 0 {
		t.Fatalf("it is weak: %q", weak)
	}
	for want, leaveOut := range map[string]func(*hsm.Statement){
		"CKA_TRUSTED":                      func(st *hsm.Statement) { st.TrustedKeys = nil },
		"root.pkcs11.accept":               func(st *hsm.Statement) { st.Broke = nil },
		"does not say whether stored keys": func(st *hsm.Statement) { st.Keys[0].Unwraps = "" },
		`does not say whether stored keys can be unwrapped so that they can be read ("?")`: func(st *hsm.Statement) { st.Keys[0].Unwraps = "?" },
	} {
		st := whole
		st.Keys = slices.Clone(whole.Keys)
		leaveOut(&st)
		if weak := st.Weak(); len(weak) != 1 || !strings.Contains(weak[0], want) {
			t.Errorf("weak is %q, not %q", weak, want)
		}
	}
}
