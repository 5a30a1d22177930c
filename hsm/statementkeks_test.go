package hsm_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
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
