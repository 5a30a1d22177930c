// Package awstest finds the servers that tests use for AWS, and puts a proxy in
// front of them that makes faults. scripts/aws.sh starts such servers.
package awstest

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The variables that name servers: URLs, or "aws" for AWS itself.
const (
	KMS      = "KEYGATE_AWS_KMS"
	Secrets  = "KEYGATE_AWS_SECRETS"
	LocalKMS = "KEYGATE_AWS_LOCALKMS" // a KMS that enforces the states of keys
)

// Region is where the tests' keys are, except at AWS itself.
const Region = "eu-west-1"

// Endpoint returns the URL in the variable, "" for AWS itself. Without one it skips
// the test, and with CI=true it fails it.
func Endpoint(t testing.TB, variable string) string {
	t.Helper()
	endpoint := os.Getenv(variable)
	switch {
	case endpoint == "aws":
		return ""
	case endpoint != "":
		return endpoint
	case os.Getenv("CI") == "true":
		t.Fatalf("%s is not set: run the tests with scripts/aws.sh", variable)
	}
	t.Skipf("%s is not set: scripts/aws.sh go test ... runs this", variable)
	return ""
}

// Credentials returns a file with credentials that servers of tests take, or "",
// for those of the environment, where the endpoint is AWS itself.
func Credentials(t testing.TB, endpoint string) string {
	t.Helper()
	if endpoint == "" {
		return ""
	}
	file := filepath.Join(t.TempDir(), "credentials")
	text := "[default]\naws_access_key_id = AKIDTESTONLY00000000\naws_secret_access_key = test-only-and-as-long-as-those-of-AWS-are\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A Request is one call, as a fault sees it.
type Request struct {
	Operation string // "Decrypt"
	Count     int    // of calls of the operation, this one too
	Body      []byte
	Done      func() // has the server do it; its answer is lost
}

// A Fault answers a request in the place of the server, and returns true, or leaves
// it to the server.
type Fault func(w http.ResponseWriter, r Request) bool

// A Proxy stands in front of a server and counts the calls that it is sent.
type Proxy struct {
	URL string

	mu     sync.Mutex
	fault  Fault
	routes map[string]http.Handler
	counts map[string]int
}

// NewProxy returns a proxy in front of endpoint, until the test ends. It cannot
// stand in front of AWS, which would see another host signed: the test is skipped.
func NewProxy(t testing.TB, endpoint string) *Proxy {
	t.Helper()
	if endpoint == "" {
		t.Skip("a proxy cannot be in front of AWS itself")
	}
	p := &Proxy{routes: map[string]http.Handler{"": forward(t, endpoint)}, counts: make(map[string]int)}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.URL = server.URL
	return p
}

func forward(t testing.TB, endpoint string) http.Handler {
	t.Helper()
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host }}
}

// Route sends an operation to another server.
func (p *Proxy) Route(t testing.TB, operation, endpoint string) {
	t.Helper()
	p.routes[operation] = forward(t, endpoint)
}

// Break has fault answer from now on; nil heals.
func (p *Proxy) Break(fault Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
	clear(p.counts)
}

// Counts returns how often each operation was called since the last Break or
// Counts.
func (p *Proxy) Counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	counts := maps.Clone(p.counts)
	clear(p.counts)
	return counts
}

// ServeHTTP counts, breaks, or forwards.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	p.mu.Lock()
	p.counts[operation]++
	fault, request := p.fault, Request{Operation: operation, Count: p.counts[operation], Body: body}
	p.mu.Unlock()
	to := p.routes[operation]
	if to == nil {
		to = p.routes[""]
	}
	request.Done = func() { to.ServeHTTP(httptest.NewRecorder(), r) }
	if fault == nil || !fault(w, request) {
		to.ServeHTTP(w, r)
	}
}

// Answer writes an error as AWS writes it.
func Answer(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	io.WriteString(w, `{"__type":"`+code+`","message":"`+message+`"}`)
}

// Fails is a fault of the first n calls of an operation, or of all if it is "".
func Fails(operation string, n, status int, code string) Fault {
	return func(w http.ResponseWriter, r Request) bool {
		if operation != "" && r.Operation != operation || r.Count > n {
			return false
		}
		Answer(w, status, code, "made by a test")
		return true
	}
}

// Loses is a fault of the first n calls of an operation: the server does it, and the
// answer is lost.
func Loses(operation string, n int) Fault {
	return func(_ http.ResponseWriter, r Request) bool {
		if r.Operation != operation || r.Count > n {
			return false
		}
		r.Done()
		panic(http.ErrAbortHandler)
	}
}

// Cuts is a fault that cuts the connection of the first n calls of each operation
// without an answer.
func Cuts(n int) Fault {
	return func(w http.ResponseWriter, r Request) bool {
		if r.Count > n {
			return false
		}
		panic(http.ErrAbortHandler)
	}
}
