// Package vaulttest has the servers that tests of Vault's drivers use: the real
// core of vault/vaultdev (Real), and a fake of its wire protocol that can be told
// to fail (NewFake).
package vaulttest

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A Server is how to reach a server as its administrator.
type Server struct {
	Address string // https://127.0.0.1:port
	CAFile  string // of PEM certificates
	Root    string // a token that may do everything

	client *http.Client
}

func newServer(tb testing.TB, address, ca, root string) *Server {
	tb.Helper()
	s := &Server{Address: address, Root: root, CAFile: filepath.Join(tb.TempDir(), "ca.pem")}
	if err := os.WriteFile(s.CAFile, []byte(ca), 0o600); err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(ca))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	tb.Cleanup(transport.CloseIdleConnections)
	s.client = &http.Client{Transport: transport, Timeout: 10 * time.Second}
	return s
}

// As returns the same server with another token.
func (s *Server) As(token string) *Server {
	other := *s
	other.Root = token
	return &other
}

// Do makes a request as the administrator, with body as JSON unless it is nil,
// and returns the answer. The test ends if the status is not below 300.
func (s *Server) Do(tb testing.TB, method, path string, body any) map[string]any {
	tb.Helper()
	status, answer := s.Try(tb, method, path, body)
	if status >= 300 {
		tb.Fatalf("vaulttest: %s %s: status %d: %v", method, path, status, answer)
	}
	return answer
}

// Try is Do for what may be refused.
func (s *Server) Try(tb testing.TB, method, path string, body any) (status int, answer map[string]any) {
	tb.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			tb.Fatal("vaulttest: ", err)
		}
	}
	req, err := http.NewRequestWithContext(tb.Context(), method, s.Address+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	req.Header.Set("X-Vault-Token", s.Root)
	resp, err := s.client.Do(req)
	if err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(resp.Body); err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			tb.Fatalf("vaulttest: %s %s: status %d: no JSON", method, path, resp.StatusCode)
		}
	}
	return resp.StatusCode, answer
}

// Data is the data of an answer.
func Data(answer map[string]any) map[string]any {
	data, _ := answer["data"].(map[string]any)
	return data
}

// Documented returns a policy of a page of the documentation: the block of HCL
// after the mark.
func Documented(tb testing.TB, page, mark string) string {
	tb.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	_, rest, ok := strings.Cut(string(text), "<!-- policy: "+mark+" -->\n\n```hcl\n")
	policy, _, ended := strings.Cut(rest, "```")
	if !ok || !ended || !strings.Contains(policy, "capabilities") {
		tb.Fatalf("vaulttest: %s has no policy %q", page, mark)
	}
	return policy
}

// TokenFile writes token to a file that only this user may read, and returns its
// path.
func TokenFile(tb testing.TB, token string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
		tb.Fatal("vaulttest: ", err)
	}
	return path
}
