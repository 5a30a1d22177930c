package main

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// issueCertificate is "issue REQUEST CERT": the authority of the script makes a server
// certificate of a certificate request.
func issueCertificate(ts *testscript.TestScript, _ bool, args []string) {
	block, _ := pem.Decode([]byte(ts.ReadFile(args[0])))
	if block == nil {
		ts.Fatalf("%s: no PEM", args[0])
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	ts.Check(err)
	ts.Check(request.CheckSignature())
	ca, err := readCertificates(ts.MkAbs("ca.crt"))
	ts.Check(err)
	key, err := readPrivateKey(ts.MkAbs("ca.key"))
	ts.Check(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	ts.Check(err)
	template := &x509.Certificate{SerialNumber: serial, Subject: request.Subject, DNSNames: request.DNSNames, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, ca[0], request.PublicKey, key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}

// replaceText is "replace FILE OLD NEW".
func replaceText(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s has no %s", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o600))
}

// dropLine is "drop FILE TEXT": the lines with that text go.
func dropLine(ts *testscript.TestScript, _ bool, args []string) {
	var rest strings.Builder
	dropped := 0
	for line := range strings.Lines(ts.ReadFile(args[0])) {
		if strings.Contains(line, args[1]) {
			dropped++
			continue
		}
		rest.WriteString(line)
	}
	if dropped == 0 {
		ts.Check(errors.New("no line has " + args[1]))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(rest.String()), 0o600))
}

func TestKeysInATokenAreChecked(t *testing.T) {
	serverFiles(t)
	const withoutTLS = `
cluster: 5f0c1d2e3b4a59687786950a1b2c3d4e
admin: {identity: disabled}
keystore: {memory: {}}
`
	token := "root: {pkcs11: {module: m, token: t, pin: {file: pin}}}\n"
	for text, why := range map[string]string{
		"tls: {key: 'pkcs11:object=a', cert: server.crt}\nroot: {local: {file: f}}\n":                                                   "names a key in the token of root.pkcs11, which is not there",
		"tls: {key: 'pkcs11:object=a', cert: server.crt, password: p}\n" + token:                                                        "tls.password is for a key in a file",
		"tls: {key: 'pkcs11:token=a', cert: server.crt}\n" + token:                                                                      "tls.key: .*token is not known here",
		"tls: {key: server.key, cert: server.crt}\naudit: {checkpoint: {key: keygate-sign}}\n" + token:                                  "audit.checkpoint.key: .*does not begin with pkcs11:",
		"tls: {key: server.key, cert: server.crt}\naudit: {checkpoint: {every: 1m}}\n" + token:                                          "audit.checkpoint.key: it is missing",
		"tls: {key: server.key, cert: server.crt}\naudit: {checkpoint: {key: 'pkcs11:object=a', every: 1ms}}\n" + token:                 "audit.checkpoint.every: 1ms is less than 1s",
		"tls: {key: server.key, cert: server.crt}\naudit: {checkpoint: {key: 'pkcs11:object=a', entries: 1}}\n" + token:                 "audit.checkpoint.entries: 1 is less than 100",
		"tls: {key: server.key, cert: server.crt}\nroot: {pkcs11: {module: m, token: t, pin: {file: pin}, signing_key: keygate-kek}}\n": "root.pkcs11.signing_key: it is the label",
	} {
		_, err := parse(withoutTLS + text)
		if err == nil || !regexp.MustCompile(why).MatchString(err.Error()) {
			t.Errorf("%s: error is %v, not %q", text, err, why)
		}
	}
	c, err := parse(withoutTLS + "tls: {key: 'pkcs11:object=a', cert: server.crt}\n" + token)
	check(t, err)
	if c.tlsKey == nil || c.tlsKey.Object != "a" || !c.Root.PKCS11.Signs {
		t.Errorf("%+v", c.tlsKey)
	}
}
