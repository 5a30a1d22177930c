package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
)

// stated returns a statement of a token with a serial number, one of two, signed by key
// as DSSE v1 says.
func stated(t *testing.T, key *ecdsa.PrivateKey, serial, cluster string, at time.Time) hsm.Envelope {
	t.Helper()
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	check(t, err)
	st := hsm.Statement{Version: 1, Time: at, Tokens: 2, Cluster: cluster, SigningKey: public}
	st.Token.Label, st.Token.Serial = "token", serial
	payload, err := json.Marshal(st)
	check(t, err)
	digest := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(hsm.StatementType), hsm.StatementType, len(payload), payload))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	check(t, err)
	return hsm.Envelope{PayloadType: hsm.StatementType, Payload: payload, Signatures: []hsm.EnvelopeSignature{{Sig: sig}}}
}

// Two statements of one token are not those of two tokens, though they are as many as
// the root has.
func TestHS18_OneTokenDoesNotStandForTwo(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	check(t, err)
	pub, file := filepath.Join(dir, "pub"), filepath.Join(dir, "statement")
	check(t, os.WriteFile(pub, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
	weak := func(envelopes ...hsm.Envelope) string {
		t.Helper()
		text, err := json.Marshal(hsm.Attestation{Envelopes: envelopes})
		check(t, err)
		check(t, os.WriteFile(file, text, 0o600))
		v := verifyAttestation{keys: []string{pub}}
		results, err := v.run(nil, file)
		check(t, err)
		var all []string
		for _, r := range results {
			all = append(all, r.Weak...)
		}
		return strings.Join(all, "\n")
	}
	one, again, two := stated(t, key, "1", "a", now), stated(t, key, "1", "a", now.Add(time.Second)), stated(t, key, "2", "a", now)
	for _, text := range []string{weak(one, one), weak(one, again)} {
		if !strings.Contains(text, "the same token") {
			t.Errorf("one token stands for two: %s", text)
		}
	}
	if text := weak(one, stated(t, key, "2", "b", now)); !strings.Contains(text, "another cluster") {
		t.Errorf("the second is of another cluster: %s", text)
	}
	if text := weak(one, two); strings.Contains(text, "the same token") || strings.Contains(text, "another cluster") {
		t.Errorf("two tokens: %s", text)
	}
}
