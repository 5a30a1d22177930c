package vaulttest

import (
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Fake speaks as much of Vault's protocol as the drivers use: transit at
// transit/, KV version 2 at secret/, logins of every kind at their default
// mounts, and tokens that end. It has no policies: each token may do everything.
// It is here to fail on demand; what Vault does is tested with the real one.
type Fake struct {
	*Server
	// Fault sees each request first. It returns true if it has answered.
	Fault func(w http.ResponseWriter, r *http.Request) bool

	http        *httptest.Server
	connections atomic.Int64

	mu       sync.Mutex
	ttl      time.Duration // of tokens from logins
	longest  time.Duration // that renewals prolong a token to, from its login
	fixed    bool          // tokens cannot be renewed
	refuse   bool          // logins
	tokens   map[string]token
	counts   map[string]int // requests by method and path
	bodies   []string       // of logins
	transit  map[string]*transitKey
	secrets  map[string]*secret
	kvConfig map[string]any
}

type token struct {
	made, ends time.Time // ends is zero if it does not
	own        bool      // of a login
}

// NewFake starts a fake that ends with the test.
func NewFake(tb testing.TB) *Fake {
	tb.Helper()
	f := &Fake{ttl: time.Hour, longest: 24 * time.Hour, tokens: map[string]token{}, counts: map[string]int{}, transit: map[string]*transitKey{}, secrets: map[string]*secret{}, kvConfig: map[string]any{"delete_version_after": "0s"}}
	f.http = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.http.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes and handlers that tests cut
	f.http.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			f.connections.Add(1)
		}
	}
	f.http.StartTLS()
	tb.Cleanup(f.http.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.http.Certificate().Raw})
	root := "root-" + rand.Text()
	f.tokens[root] = token{}
	f.Server = newServer(tb, f.http.URL, string(ca), root)
	return f
}

// Tokens sets the life of tokens from logins, in full seconds, how long renewals
// prolong it, and whether they can be renewed.
func (f *Fake) Tokens(ttl, longest time.Duration, renewable bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ttl, f.longest, f.fixed = ttl, longest, !renewable
}

// RefuseLogins has logins answered 400 from now on, or not.
func (f *Fake) RefuseLogins(refuse bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse = refuse
}

// NewToken makes a token that lives ttl; 0 is for ever.
func (f *Fake) NewToken(ttl time.Duration) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.issue(ttl, false)
}

// RevokeAll ends all tokens but the administrator's.
func (f *Fake) RevokeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for t := range f.tokens {
		if t != f.Root {
			delete(f.tokens, t)
		}
	}
}

// Count returns how many requests there were whose method and path contain part.
func (f *Fake) Count(part string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for request, count := range f.counts {
		if strings.Contains(request, part) {
			n += count
		}
	}
	return n
}

// Connections returns how many connections there have been.
func (f *Fake) Connections() int64 { return f.connections.Load() }

// Logins returns the bodies of the logins.
func (f *Fake) Logins() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.bodies...)
}

// issue makes a token; f.mu is held.
func (f *Fake) issue(ttl time.Duration, own bool) string {
	name, now := "hvs."+rand.Text(), time.Now()
	t := token{made: now, own: own}
	if ttl > 0 {
		t.ends = now.Add(ttl)
	}
	f.tokens[name] = t
	return name
}

// A reply is an answer of the fake.
type reply struct {
	status int
	body   any
}

func ok(data any) reply { return reply{http.StatusOK, map[string]any{"data": data}} }

func bad(status int, texts ...string) reply {
	if texts == nil {
		texts = []string{}
	}
	return reply{status, map[string]any{"errors": texts}}
}

func (f *Fake) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	f.mu.Lock()
	f.counts[r.Method+" "+path]++
	fault := f.Fault
	f.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	a := f.do(r, path)
	if a.status == http.StatusNoContent {
		w.WriteHeader(a.status)
		return
	}
	answer, err := json.Marshal(a.body)
	if err != nil {
		panic(err)
	}
	Answer(w, a.status, string(answer))
}

// do does what a request asks for.
func (f *Fake) do(r *http.Request, path string) reply {
	var body map[string]any
	text, err := io.ReadAll(r.Body)
	if err != nil || len(text) > 0 && json.Unmarshal(text, &body) != nil {
		return bad(http.StatusBadRequest, "failed to parse JSON input")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.route(r, path, body, string(text))
}

// Serve does what a request asks for, and answers nothing: for a Fault.
func (f *Fake) Serve(r *http.Request) { f.do(r, strings.TrimPrefix(r.URL.Path, "/v1/")) }

// Answer writes a body of JSON.
func Answer(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	io.WriteString(w, body)
}

// SetFault replaces Fault while requests run; nil is none.
func (f *Fake) SetFault(fault func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Fault = fault
}

// route answers a request; f.mu is held.
func (f *Fake) route(r *http.Request, path string, body map[string]any, text string) reply {
	if strings.HasPrefix(path, "auth/") && strings.HasSuffix(path, "/login") {
		f.bodies = append(f.bodies, text)
		if f.refuse {
			return bad(http.StatusBadRequest, "invalid role or secret ID")
		}
		return f.auth(f.issue(f.ttl, true))
	}
	name := r.Header.Get("X-Vault-Token")
	t, known := f.tokens[name]
	if !known || !t.ends.IsZero() && !time.Now().Before(t.ends) {
		return bad(http.StatusForbidden, "permission denied")
	}
	engine, rest, _ := strings.Cut(path, "/")
	switch {
	case path == "auth/token/lookup-self":
		var expires any
		if !t.ends.IsZero() {
			expires = t.ends.Format(time.RFC3339)
		}
		return ok(map[string]any{"ttl": left(t), "expire_time": expires, "renewable": !f.fixed && !t.ends.IsZero()})
	case path == "auth/token/renew-self":
		if f.fixed || t.ends.IsZero() {
			return bad(http.StatusBadRequest, "lease is not renewable")
		}
		if t.ends = time.Now().Add(f.ttl); t.ends.After(t.made.Add(f.longest)) {
			t.ends = t.made.Add(f.longest)
		}
		f.tokens[name] = t
		return f.auth(name)
	case path == "auth/token/revoke-self":
		delete(f.tokens, name)
		return reply{status: http.StatusNoContent}
	case engine == "transit":
		return f.transitRoute(r.Method, rest, body)
	case engine == "secret":
		return f.kvRoute(r, rest, body)
	}
	return bad(http.StatusNotFound, "no handler for route \""+path+"\". route entry not found.")
}

func left(t token) int64 {
	if t.ends.IsZero() {
		return 0
	}
	return int64(time.Until(t.ends) / time.Second)
}

// auth is what a login and a renewal answer.
func (f *Fake) auth(name string) reply {
	t := f.tokens[name]
	duration := int64(time.Until(t.ends).Round(time.Second) / time.Second)
	return reply{http.StatusOK, map[string]any{"auth": map[string]any{"client_token": name, "lease_duration": duration, "renewable": !f.fixed}}}
}
