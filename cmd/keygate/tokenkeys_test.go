package main

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/p11shim"
	"github.com/keygate/keygate/softhsm"
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
		"tls: {key: server.key, cert: server.crt}\naudit: {checkpoint: {key: keygate-sign}}\n" + token:                                  "audit.checkpoint.key: .*does not begin with the scheme pkcs11",
		"tls: {key: server.key, cert: server.crt}\naudit: {checkpoint: {every: 1m}}\n" + token:                                          "audit.checkpoint.key: it is missing",
		"tls: {key: server.key, cert: server.crt}\naudit: {checkpoint: {key: 'pkcs11:object=a', every: 1ms}}\n" + token:                 "audit.checkpoint.every: 1ms is less than 1s",
		"tls: {key: server.key, cert: server.crt}\naudit: {checkpoint: {key: 'pkcs11:object=a', entries: 1}}\n" + token:                 "audit.checkpoint.entries: 1 is less than 100",
		"tls: {key: server.key, cert: server.crt}\nroot: {pkcs11: {module: m, token: t, pin: {file: pin}, signing_key: keygate-kek}}\n": "root.pkcs11.signing_key: it is the label",
		"tls: {key: 'pkcs11:object=a', cert: server.crt}\nroot: {pkcs11: {module: m, token: t, pin: {file: pin}, signing_key: a}}\n":    "must not be that of TLS",
		"tls: {key: 'pkcs11:object=a', cert: server.crt}\naudit: {checkpoint: {key: 'pkcs11:object=a;id=%01'}}\n" + token:               "must not be that of TLS",
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

// While the token is away new handshakes fail, and connections that are there go on.
// When it is back they succeed, without a restart.
func TestHS08_HandshakesWhileTheTokenIsAway(t *testing.T) {
	token, dir := softhsm.Token(t), t.TempDir()
	cfg := hsm.Config{Module: token.Module, Token: token.Label, PIN: hsm.PIN{File: token.PINFile}, SigningKey: "server", Timeout: 300 * time.Millisecond}
	_, err := hsm.Init(t.Context(), cfg)
	check(t, err)
	_, _, err = hsm.InitSigningKey(t.Context(), cfg)
	check(t, err)
	control, err := p11shim.NewControl(filepath.Join(dir, "control"), token.Module)
	check(t, err)
	defer control.Close()
	cfg.Module, err = control.Build(dir)
	check(t, err)
	root, err := hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	check(t, err)
	t.Cleanup(func() { root.Close() })
	t.Cleanup(func() { control.Heal() })
	key, err := root.Signer(t.Context(), hsm.KeyName{Object: "server"})
	check(t, err)

	g := startGatewayOn(t, dir, root, func(s *gateway.State) {
		ca, err := readCertificates(filepath.Join(dir, "ca.crt"))
		check(t, err)
		caKey, err := readPrivateKey(filepath.Join(dir, "ca.key"))
		check(t, err)
		der, err := newCertificate(certificateRequest{ips: []net.IP{net.IPv4(127, 0, 0, 1)}, lifetime: time.Hour, issuer: &issuer{ca[0], caKey}}, key, time.Now())
		check(t, err)
		leaf, err := x509.ParseCertificate(der)
		check(t, err)
		s.Certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	})
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "app.crt"), filepath.Join(dir, "app.key"))
	check(t, err)
	authorities, err := loadAuthorities(filepath.Join(dir, "ca.crt"))
	check(t, err)
	dial := func() (*tls.Conn, error) {
		conn, err := tls.Dial("tcp", g.address, &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: authorities, NextProtos: []string{"http/1.1"}})
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { conn.Close() })
		return conn, nil
	}
	answers := func(conn *tls.Conn) {
		t.Helper()
		_, err := conn.Write([]byte("GET /version HTTP/1.1\r\nHost: keygate\r\n\r\n"))
		check(t, err)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		check(t, err)
		if response.StatusCode != http.StatusOK {
			t.Errorf("status %d", response.StatusCode)
		}
	}
	conn, err := dial()
	check(t, err)
	answers(conn)
	check(t, control.Fail("C_SignInit", p11shim.Fault{Code: pkcs11.CKR_DEVICE_REMOVED, Times: p11shim.Forever}))
	for range 3 {
		if _, err := dial(); err == nil {
			t.Fatal("a handshake succeeds without a token")
		}
	}
	answers(conn)
	check(t, control.Fail("C_SignInit", p11shim.Fault{Sleep: time.Hour})) // now it hangs
	begun := time.Now()
	if _, err := dial(); err == nil || time.Since(begun) > 3*time.Second {
		t.Fatalf("a handshake with a token that hangs: %v after %v", err, time.Since(begun))
	}
	answers(conn)
	check(t, control.Heal())
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err = dial(); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	answers(conn)
}

// restCall is "rest PATH STATUS": a GET as app. The body is standard output.
func restCall(ts *testscript.TestScript, _ bool, args []string) {
	pair, err := tls.LoadX509KeyPair(ts.Getenv("KEYGATE_CLIENT_CERT"), ts.Getenv("KEYGATE_CLIENT_KEY"))
	ts.Check(err)
	authorities, err := loadAuthorities(ts.Getenv("KEYGATE_CACERT"))
	ts.Check(err)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: authorities}}}
	response, err := client.Get("https://" + ts.Getenv("KEYGATE_SERVER") + args[0])
	ts.Check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	ts.Check(err)
	_, err = ts.Stdout().Write(body)
	ts.Check(err)
	if got := strconv.Itoa(response.StatusCode); got != args[1] {
		ts.Fatalf("%s: status %s: %s", args[0], got, body)
	}
}

// The key of TLS must not sign anything that is kept, by whatever it is named in the
// configuration.
func TestTheKeyOfTLSSignsNothingElse(t *testing.T) {
	f := softhsm.Token(t)
	cfg := hsm.Config{Module: f.Module, Token: f.Label, PIN: hsm.PIN{File: f.PINFile}, SigningKey: hsm.DefaultSigningKey, Signs: true}
	_, err := hsm.Init(t.Context(), cfg)
	check(t, err)
	_, _, err = hsm.InitSigningKey(t.Context(), cfg)
	check(t, err)
	root, err := hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	check(t, err)
	defer root.Close()
	byLabel := hsm.KeyName{Object: hsm.DefaultSigningKey}
	key, err := root.Signer(t.Context(), byLabel)
	check(t, err)
	a, err := root.Attest(t.Context(), hsm.AttestRequest{})
	check(t, err)
	st, err := hsm.VerifyStatement(a.Envelopes[0], key.Public())
	check(t, err)
	id, err := hex.DecodeString(st.Keys[2].ID)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	leaf, err := x509.ParseCertificate(der)
	check(t, err)
	byID := hsm.KeyName{ID: id}
	for name, of := range map[string]struct {
		attests bool
		audit   *hsm.KeyName
	}{"audit": {false, &byLabel}, "attestations": {true, nil}} {
		token := cfg
		if !of.attests {
			token.SigningKey = ""
		}
		c := &configuration{tlsKey: &byID, auditKey: of.audit}
		c.TLS.Key = "pkcs11:id=" + st.Keys[2].ID
		c.Root.PKCS11 = &token
		c.state.Certificate.Leaf = leaf
		if err := c.bindServerKey(t.Context(), root, nil); err == nil || !strings.Contains(err.Error(), "must not be that of TLS") {
			t.Errorf("%s: %v", name, err)
		}
	}
	alone := cfg
	alone.SigningKey = ""
	c := &configuration{tlsKey: &byID}
	c.TLS.Key = "pkcs11:id=" + st.Keys[2].ID
	c.Root.PKCS11 = &alone
	c.state.Certificate.Leaf = leaf
	check(t, c.bindServerKey(t.Context(), root, nil))
}
