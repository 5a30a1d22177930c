package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("cert", "CERTIFICATE", der), write("key", "PRIVATE KEY", pkcs8)
}

// start starts the floor, and returns a client and where it is.
func start(t *testing.T, answers map[string][]byte) (*http.Client, string) {
	t.Helper()
	cert, key := certificate(t)
	s, err := newServer("127.0.0.1:0", cert, key, answers)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	go s.ServeTLS(ln, "", "")
	t.Cleanup(func() { s.Close() })
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(own.Leaf)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{own}}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}, "https://" + ln.Addr().String()
}

func TestAnswersAreThoseOfTheFilesWithTheGatewaysHeader(t *testing.T) {
	a, b := []byte("{\"plaintext\":\"A\"}\n"), []byte("{}\n")
	client, at := start(t, map[string][]byte{"/v1/key/generate/": a, "/v1/key/decrypt/": b})
	for path, want := range map[string][]byte{"/v1/key/generate/app-1": a, "/v1/key/decrypt/app-2": b} {
		resp, err := client.Post(at+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !bytes.Equal(got, want) || resp.ProtoMajor != 2 {
			t.Errorf("%s: %s %s %q, %v", path, resp.Proto, resp.Status, got, err)
		}
		var names []string
		for name := range resp.Header {
			names = append(names, name)
		}
		slices.Sort(names)
		if !slices.Equal(names, []string{"Content-Length", "Content-Type", "Date", "X-Request-Id"}) {
			t.Errorf("%s: header fields %q", path, names)
		}
	}
}

func TestAClientWithoutACertificateIsRefused(t *testing.T) {
	client, at := start(t, map[string][]byte{"/": {}})
	client.Transport.(*http.Transport).TLSClientConfig.Certificates = nil
	if resp, err := client.Post(at+"/", "", nil); err == nil {
		resp.Body.Close()
		t.Errorf("answered %s", resp.Status)
	}
}
