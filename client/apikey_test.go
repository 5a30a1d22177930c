package client_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/keygate/keygate/client"
	"github.com/keygate/keygate/policy"
)

// The public test pair of play.min.io.
const (
	playKey      = "kes:v1:AD9E7FSYWrMD+VjhI6q545cYT9YOyFxZb7UnjEepYDRc"
	playIdentity = "3ecfcdf38fcbe141ae26a1030f81e96b753365a46760ae6b578698a97c59fd22"
)

func TestParseAPIKey(t *testing.T) {
	for _, s := range []string{playKey, strings.TrimPrefix(playKey, "kes:v1:")} {
		key, err := client.ParseAPIKey(s)
		if err != nil {
			t.Fatal(err)
		}
		if key.Identity() != playIdentity {
			t.Errorf("identity %s, want %s", key.Identity(), playIdentity)
		}
		if key.Reveal() != playKey {
			t.Error("Reveal does not return the key with its prefix")
		}
	}
}

func TestParseAPIKeyRefuses(t *testing.T) {
	encode := func(b []byte) string { return "kes:v1:" + base64.StdEncoding.EncodeToString(b) }
	for name, s := range map[string]string{
		"empty":              "",
		"the prefix alone":   "kes:v1:",
		"another version":    strings.Replace(playKey, "v1", "v2", 1),
		"two prefixes":       "kes:v1:" + playKey,
		"a type of 1":        encode(append([]byte{1}, make([]byte, 32)...)),
		"a short seed":       encode(make([]byte, 32)),
		"a long seed":        encode(make([]byte, 34)),
		"base64 for URLs":    strings.ReplaceAll(playKey, "+", "-"),
		"a trailing newline": playKey + "\n",
		"a leading space":    " " + playKey,
	} {
		if _, err := client.ParseAPIKey(s); !errors.Is(err, client.ErrAPIKey) {
			t.Errorf("%s: error %v, want ErrAPIKey", name, err)
		} else if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("%s: the error quotes the key", name)
		}
	}
}

func TestGenerateAPIKey(t *testing.T) {
	a, err := client.GenerateAPIKey()
	if err != nil {
		t.Fatal(err)
	}
	b, err := client.GenerateAPIKey()
	if err != nil {
		t.Fatal(err)
	}
	if a.Identity() == b.Identity() || a.Reveal() == b.Reveal() {
		t.Error("two keys are the same")
	}
	again, err := client.ParseAPIKey(a.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if again.Identity() != a.Identity() {
		t.Error("the key that was read back has another identity")
	}
}

func TestAPIKeyCertificate(t *testing.T) {
	key, err := client.ParseAPIKey(playKey)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := key.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if id := policy.IdentityOf(c.RawSubjectPublicKeyInfo); id != playIdentity {
		t.Errorf("identity of the certificate %s, want %s", id, playIdentity)
	}
	if sum := sha256.Sum256(c.RawSubjectPublicKeyInfo); hex.EncodeToString(sum[:]) != playIdentity {
		t.Error("the identity is not the SHA-256 of the public key")
	}
	if c.Subject.CommonName != playIdentity || c.IsCA || !c.BasicConstraintsValid {
		t.Errorf("subject %v, CA %t", c.Subject, c.IsCA)
	}
	if c.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("key usage %b, want digitalSignature alone", c.KeyUsage)
	}
	if len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("extended key usage %v, want clientAuth alone", c.ExtKeyUsage)
	}
	if err := c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
		t.Errorf("the certificate is not self-signed: %v", err)
	}
	if now := time.Now(); now.Before(c.NotBefore) || c.NotAfter.Sub(now).Round(time.Hour) != 90*24*time.Hour {
		t.Errorf("valid from %v to %v", c.NotBefore, c.NotAfter)
	}
}

func TestAU06_APIKeyRedactsItself(t *testing.T) {
	key, err := client.ParseAPIKey(playKey)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	holder := struct {
		Key    *client.APIKey
		Value  client.APIKey
		hidden client.APIKey
	}{key, *key, *key}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", key)
		fmt.Fprintf(&out, verb+"\n", *key)
		fmt.Fprintf(&out, verb+"\n", holder)
	}
	if err := json.NewEncoder(&out).Encode(holder); err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "key", key, "holder", holder)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "key", key, "holder", holder)

	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(playKey, "kes:v1:"))
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range map[string]string{
		"text":           strings.TrimPrefix(playKey, "kes:v1:"),
		"bytes":          string(raw[1:]),
		"hex":            hex.EncodeToString(raw[1:]),
		"decimal digits": strings.Trim(fmt.Sprint(raw[1:9]), "[]"),
		"go syntax":      strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", raw[1:9]), "[]byte{"), "}"),
	} {
		if strings.Contains(strings.ToLower(out.String()), strings.ToLower(secret)) {
			t.Errorf("the output holds the key as %s:\n%s", name, out.String())
		}
	}
	if !strings.Contains(out.String(), playIdentity) {
		t.Error("the output does not say whose key it is")
	}
}
