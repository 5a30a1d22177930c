package hsm_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

func TestHS18_AnAttestationSaysWhatTheTokenSays(t *testing.T) {
	cfg := signing(t, hsmtest.Config(t))
	r := hsmtest.Open(t, cfg)
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	a, err := r.Attest(t.Context(), hsm.AttestRequest{Nonce: []byte{0xab, 0xcd}, Cluster: "the cluster", Gateway: "v1"})
	ok(t, err)
	if len(a.Envelopes) != 1 || len(a.Missing) != 0 {
		t.Fatalf("%+v", a)
	}
	st, err := hsm.VerifyStatement(a.Envelopes[0], key.Public())
	ok(t, err)
	if st.Nonce != "abcd" || st.Cluster != "the cluster" || st.Gateway != "v1" || st.Tokens != 1 || st.Token.Label != cfg.Token || st.Token.Serial == "" || st.Token.Firmware == "" {
		t.Errorf("%+v", st)
	}
	if weak := st.Weak(); len(weak) > 0 {
		t.Errorf("it is weak: %q", weak)
	}
	if len(st.Keys) != 3 {
		t.Fatalf("%+v", st.Keys)
	}
	for _, k := range st.Keys[:2] {
		if len(k.Check) != 16 || k.Bytes != 32 || len(k.ID) != 16 {
			t.Errorf("%+v", k)
		}
	}
	// The check values are of the keys: the same again, and others in another token.
	again, err := r.Attest(t.Context(), hsm.AttestRequest{})
	ok(t, err)
	same, err := hsm.VerifyStatement(again.Envelopes[0], key.Public())
	ok(t, err)
	other := hsmtest.Open(t, signing(t, hsmtest.Config(t)))
	otherKey, err := other.Signer(t.Context(), signingKey)
	ok(t, err)
	b, err := other.Attest(t.Context(), hsm.AttestRequest{})
	ok(t, err)
	different, err := hsm.VerifyStatement(b.Envelopes[0], key.Public(), otherKey.Public())
	ok(t, err)
	for i := range 2 {
		if st.Keys[i].Check != same.Keys[i].Check || st.Keys[i].Check == different.Keys[i].Check {
			t.Errorf("check values are %s, %s and %s", st.Keys[i].Check, same.Keys[i].Check, different.Keys[i].Check)
		}
	}
}

func TestAttestationsLeaveNothingBehind(t *testing.T) {
	s, cfg := shimmed(t)
	r := hsmtest.Open(t, signing(t, cfg))
	objects := func() int {
		return s.calls("C_CreateObject") + s.calls("C_UnwrapKey") + s.calls("C_GenerateKey") - s.calls("C_DestroyObject")
	}
	before := objects()
	for range 20 {
		a, err := r.Attest(t.Context(), hsm.AttestRequest{})
		ok(t, err)
		text, err := json.Marshal(a)
		ok(t, err)
		if strings.Contains(string(text), s.fixture.PIN) {
			t.Error("the PIN is in it")
		}
	}
	if left := objects() - before; left > 0 {
		t.Errorf("%d session objects are left", left)
	}
}

func TestAnAttestationThatWasChangedIsRefused(t *testing.T) {
	r := hsmtest.Open(t, signing(t, hsmtest.Config(t)))
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	a, err := r.Attest(t.Context(), hsm.AttestRequest{})
	ok(t, err)
	for i := range a.Envelopes[0].Payload {
		if i%37 != 0 {
			continue
		}
		bad := a.Envelopes[0]
		bad.Payload = slices.Clone(bad.Payload)
		bad.Payload[i] ^= 1
		_, err := hsm.VerifyStatement(bad, key.Public())
		is(t, err, hsm.ErrStatement)
	}
	bad := a.Envelopes[0]
	bad.PayloadType += "x"
	_, err = hsm.VerifyStatement(bad, key.Public())
	is(t, err, hsm.ErrStatement)
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	_, err = hsm.VerifyStatement(a.Envelopes[0], stranger.Public())
	is(t, err, hsm.ErrStatement)
	_, err = hsm.VerifyStatement(a.Envelopes[0])
	is(t, err, hsm.ErrStatement)
}

// signedBy makes an envelope as DSSE v1 describes it, and not as package hsm does.
func signedBy(t *testing.T, key *ecdsa.PrivateKey, st hsm.Statement) hsm.Envelope {
	t.Helper()
	payload, err := json.Marshal(st)
	ok(t, err)
	digest := sha256.Sum256([]byte("DSSEv1 " + fmt.Sprint(len(hsm.StatementType)) + " " + hsm.StatementType + " " + fmt.Sprint(len(payload)) + " " + string(payload)))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	ok(t, err)
	return hsm.Envelope{PayloadType: hsm.StatementType, Payload: payload, Signatures: []hsm.EnvelopeSignature{{Sig: sig}}}
}

func TestWhatIsWeakIsNamed(t *testing.T) {
	r := hsmtest.Open(t, signing(t, hsmtest.Config(t)))
	signer, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	a, err := r.Attest(t.Context(), hsm.AttestRequest{})
	ok(t, err)
	st, err := hsm.VerifyStatement(a.Envelopes[0], signer.Public())
	ok(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ok(t, err)
	_, err = hsm.VerifyStatement(signedBy(t, key, st), key.Public())
	is(t, err, hsm.ErrStatement) // it names the key of the token
	st.SigningKey, err = x509.MarshalPKIXPublicKey(key.Public())
	ok(t, err)
	st, err = hsm.VerifyStatement(signedBy(t, key, st), key.Public())
	ok(t, err)
	yes := true
	st.Keys[0].Attributes["CKA_EXTRACTABLE"], st.Keys[0].Attributes["CKA_DECRYPT"] = &yes, &yes
	st.Keys[1].Attributes["CKA_LOCAL"] = nil
	st.Keys = st.Keys[:2]
	weak := strings.Join(st.Weak(), "\n")
	for _, want := range []string{`kek key "keygate-kek": CKA_EXTRACTABLE is true`, `CKA_DECRYPT is true`, `record key "keygate-record": CKA_LOCAL is not known`, "no signing key"} {
		if !strings.Contains(weak, want) {
			t.Errorf("no word of %q in %q", want, weak)
		}
	}
	if n := strings.Count(weak, "\n"); n != 3 {
		t.Errorf("%d lines: %q", n+1, weak)
	}
}

func TestWithoutASigningKeyNothingIsAttested(t *testing.T) {
	cfg := hsmtest.Config(t)
	_, err := hsmtest.Open(t, cfg).Attest(t.Context(), hsm.AttestRequest{})
	is(t, err, kms.ErrUnsupported)
	cfg.SigningKey = "nobody"
	r := hsmtest.Open(t, cfg)
	_, err = r.Attest(t.Context(), hsm.AttestRequest{})
	is(t, err, hsm.ErrNoKey)
	_, err = r.Attest(t.Context(), hsm.AttestRequest{Nonce: make([]byte, hsm.MaxNonce+1)})
	is(t, err, kms.ErrUnsupported)
	if st := r.Stats(); st.Connections != 1 {
		t.Errorf("%+v", st)
	}
}

func TestATokenThatLetsNoKnownKeyInHasNoCheckValue(t *testing.T) {
	s, cfg := shimmed(t)
	r := hsmtest.Open(t, signing(t, cfg))
	key, err := r.Signer(t.Context(), signingKey)
	ok(t, err)
	s.fail("C_CreateObject", fault{code: pkcs11.CKR_TEMPLATE_INCONSISTENT, times: forever})
	a, err := r.Attest(t.Context(), hsm.AttestRequest{})
	ok(t, err)
	st, err := hsm.VerifyStatement(a.Envelopes[0], key.Public())
	ok(t, err)
	if st.Keys[0].Check != "" || !strings.Contains(st.Keys[0].CheckMethod, "lets no known key in") || st.Keys[1].Check == "" {
		t.Errorf("%+v", st.Keys)
	}
}
