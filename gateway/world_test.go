package gateway_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/audit"
	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/gateway"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/policy"
)

var cluster = kms.ClusterID{0xc1, 0xc2, 0xc3}

// A world is a gateway on a real token, a real directory and real TLS.
type world struct {
	t      testing.TB
	kms    *kms.KMS
	root   *root
	store  string // directory of the key store
	server *gateway.Server
	audit  *audit.Log
	log    *buffer // the error log
	addr   string
	clock  atomic.Int64 // how far the server's clock is ahead, in nanoseconds
	state  gateway.State

	ca              *authority // of servers, and of clients that want one
	admin, app      tls.Certificate
	adminID, appID  policy.Identity
	stop            func() // ends Serve and waits for it
	auditFile       string
	stopped         sync.Once
	deletionWindow  time.Duration
	mode            envelope.Mode
	limits          gateway.LimitsConfig
	polls           audit.Polls
	listen          func(net.Listener) net.Listener // nil: as it is
	keyStoreWrapper func(keystore.Store) keystore.Store
	storeCalls      atomic.Int64 // of a world that is made with counted
}

// newWorld starts a gateway with an admin and with an app whose policy is about
// keys that begin with app-. Options change the world before it starts.
func newWorld(t testing.TB, options ...func(*world)) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, store: filepath.Join(dir, "keys"), auditFile: filepath.Join(dir, "audit.log"), log: new(buffer), ca: newAuthority(t, "ca")}
	w.admin, w.app = newCertificate(t, nil), newCertificate(t, nil)
	w.adminID, w.appID = identity(w.admin), identity(w.app)
	w.state = gateway.State{
		Rules:       w.rules([]string{"/v1/key/*", "/v1/status", "/v1/metrics"}, nil),
		Certificate: w.ca.issue(t, asServer),
	}
	w.deletionWindow = time.Hour
	for _, option := range options {
		option(w)
	}
	w.root = newRoot(t)
	w.openKMS()
	w.start()
	return w
}

func (w *world) openKMS() {
	w.t.Helper()
	cfg := fs.Config{Path: w.store}
	ok(w.t, fs.Init(cfg, cluster.String()))
	store, err := fs.Open(cfg, cluster.String())
	ok(w.t, err)
	w.t.Cleanup(func() { store.Close() })
	var s keystore.Store = store
	if w.keyStoreWrapper != nil {
		s = w.keyStoreWrapper(s)
	}
	w.kms, err = kms.New(kms.Config{
		Cluster: cluster, DeletionWindow: w.deletionWindow, Mode: w.mode, Logger: slog.New(slog.DiscardHandler), Now: w.now,
	}, w.root, s)
	ok(w.t, err)
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.clock.Load())) }

func (w *world) start() {
	w.t.Helper()
	errorLog := gateway.NewErrorLog(w.log, slog.LevelInfo)
	var err error
	w.audit, err = audit.Open(audit.Config{File: w.auditFile, Logger: errorLog.Logger(), Polls: w.polls})
	ok(w.t, err)
	w.server, err = gateway.New(gateway.Config{
		KMS: w.kms, Audit: w.audit, ErrorLog: errorLog, Version: "v0.0.0-test", Commit: "0123456789abcdef",
		Now: w.now, Limits: w.limits,
	}, w.state)
	ok(w.t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ok(w.t, err)
	w.addr = ln.Addr().String()
	if w.listen != nil {
		ln = w.listen(ln)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.server.Serve(ctx, ln) }()
	w.stop = func() {
		w.stopped.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("serve: %v", err)
			}
			w.audit.Close()
		})
	}
	w.t.Cleanup(w.stop)
}

// restart ends the gateway and starts another on the same store and root.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.stopped = sync.Once{}
	w.openKMS()
	w.start()
}

// rules returns rules with an admin and one policy, of the app.
func (w *world) rules(allow, deny []string) *policy.Rules {
	w.t.Helper()
	rules, err := policy.Compile(w.adminID, []policy.Policy{{Name: "app", Allow: allow, Deny: deny, Identities: []policy.Identity{w.appID}}})
	ok(w.t, err)
	return rules
}

// reload changes the server's state.
func (w *world) reload(change func(*gateway.State)) {
	w.t.Helper()
	change(&w.state)
	ok(w.t, w.server.Reload(w.state))
}

// tlsConfig returns a client's configuration with a certificate, or without if
// it is nil.
func (w *world) tlsConfig(certificate *tls.Certificate) *tls.Config {
	cfg := &tls.Config{RootCAs: w.ca.pool(), ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}}
	if certificate != nil {
		// Unlike Certificates, this is sent whatever authorities the server names.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	return cfg
}

// client returns a client that speaks HTTP/2.
func (w *world) client(certificate tls.Certificate) *client {
	return w.clientOf(&certificate, true)
}

func (w *world) clientOf(certificate *tls.Certificate, http2 bool) *client {
	cfg := w.tlsConfig(certificate)
	cfg.NextProtos = nil
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: http2, DisableCompression: true}
	if !http2 {
		tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	w.t.Cleanup(tr.CloseIdleConnections)
	return &client{t: w.t, base: "https://" + w.addr, http: &http.Client{Transport: tr, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// dial opens a TLS connection that speaks HTTP/1.1.
func (w *world) dial(certificate tls.Certificate) *tls.Conn {
	w.t.Helper()
	conn, err := tls.Dial("tcp", w.addr, w.tlsConfig(&certificate))
	ok(w.t, err)
	w.t.Cleanup(func() { conn.Close() })
	ok(w.t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	return conn
}

// entries returns the audit log.
func (w *world) entries() []map[string]any {
	w.t.Helper()
	b, err := os.ReadFile(w.auditFile)
	ok(w.t, err)
	var all []map[string]any
	for line := range strings.Lines(string(b)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatalf("audit line %q: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// last returns the last entry of the audit log.
func (w *world) last() map[string]any {
	w.t.Helper()
	all := w.entries()
	if len(all) == 0 {
		w.t.Fatal("the audit log is empty")
	}
	return all[len(all)-1]
}

// A client calls a server and fails its test if there is no answer.
type client struct {
	t    testing.TB
	base string
	http *http.Client
}

// An answer is a whole answer.
type answer struct {
	*http.Response
	body string
}

func (c *client) do(method, path, body string) answer {
	c.t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	return c.send(method, path, r)
}

// send is do with any body: one that is no *strings.Reader is sent without a
// Content-Length.
func (c *client) send(method, path string, body io.Reader) answer {
	c.t.Helper()
	req, err := http.NewRequest(method, c.base+path, body)
	ok(c.t, err)
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("%s %s: read: %v", method, path, err)
	}
	return answer{resp, string(b)}
}

// get is do for a success whose JSON goes into v, if that is not nil.
func (c *client) get(method, path, body string, v any) {
	c.t.Helper()
	a := c.do(method, path, body)
	if a.StatusCode != http.StatusOK {
		c.t.Fatalf("%s %s: %d %s", method, path, a.StatusCode, a.body)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(a.body), v); err != nil {
			c.t.Fatalf("%s %s: %v in %q", method, path, err, a.body)
		}
	}
}

// fails checks that a request is answered with an error, byte for byte.
func (c *client) fails(method, path, body string, status int, message string) answer {
	c.t.Helper()
	a := c.do(method, path, body)
	isError(c.t, method+" "+shortened(path), a, status, message)
	return a
}

func isError(t testing.TB, what string, a answer, status int, message string) {
	t.Helper()
	text, err := json.Marshal(message)
	ok(t, err)
	want := `{"message":` + string(text) + "\n}"
	if a.StatusCode != status || a.body != want {
		t.Errorf("%s: answered %d %q, not %d %q", what, a.StatusCode, shortened(a.body), status, shortened(want))
	}
	if a.Header.Get("Content-Type") != "application/json" || a.ContentLength != int64(len(a.body)) {
		t.Errorf("%s: Content-Type %q, Content-Length %d of %d", what, a.Header.Get("Content-Type"), a.ContentLength, len(a.body))
	}
}

func shortened(s string) string {
	if len(s) > 300 {
		return s[:300] + "..."
	}
	return s
}

// A buffer is a bytes.Buffer for many goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came about: %s", what)
		}
	}
}

// setRules returns a change of the app's policy.
func setRules(w *world, allow, deny []string) func(*gateway.State) {
	return func(s *gateway.State) { s.Rules = w.rules(allow, deny) }
}
