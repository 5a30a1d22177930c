package vaultapi_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keygate/keygate/vault/vaultapi"
	"github.com/keygate/keygate/vault/vaulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(f *vaulttest.Fake, auth vaultapi.Auth) vaultapi.Config {
	return vaultapi.Config{Address: f.Address, TLS: vaultapi.TLS{CA: f.CAFile}, Auth: auth, Timeout: 3 * time.Second}
}

func appRole(t *testing.T) vaultapi.Auth {
	return vaultapi.Auth{AppRole: &vaultapi.AppRole{RoleID: "role-1", SecretIDFile: vaulttest.TokenFile(t, "secret-1")}}
}

func client(t *testing.T, cfg vaultapi.Config) *vaultapi.Client {
	t.Helper()
	c, err := vaultapi.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// random is a call that needs a token and changes nothing.
func random(ctx context.Context, c *vaultapi.Client) error {
	var out struct {
		Bytes []byte `json:"random_bytes"`
	}
	err := c.Write(ctx, "transit/random", map[string]int{"bytes": 16}, &out)
	if err == nil && len(out.Bytes) != 16 {
		err = errors.New("no random bytes")
	}
	return err
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func isKind(t *testing.T, err error, kind vaultapi.Kind) {
	t.Helper()
	if err == nil || vaultapi.KindOf(err) != kind {
		t.Fatalf("error is %v, of kind %d, not %d", err, vaultapi.KindOf(err), kind)
	}
}

func TestEachMethodLogsIn(t *testing.T) {
	jwt := filepath.Join(t.TempDir(), "jwt")
	check(t, os.WriteFile(jwt, []byte("header.body.signature\n"), 0o644)) // as Kubernetes makes it
	for name, test := range map[string]struct {
		auth vaultapi.Auth
		path string
		body string
	}{
		"approle":               {appRole(t), "auth/approle/login", `{"role_id":"role-1","secret_id":"secret-1"}`},
		"approle, other mount":  {vaultapi.Auth{AppRole: &vaultapi.AppRole{Mount: "a/b", RoleID: "r"}}, "auth/a/b/login", `{"role_id":"r","secret_id":""}`},
		"kubernetes":            {vaultapi.Auth{Kubernetes: &vaultapi.Kubernetes{Role: "kg", JWTFile: jwt}}, "auth/kubernetes/login", `{"jwt":"header.body.signature","role":"kg"}`},
		"kubernetes, other one": {vaultapi.Auth{Kubernetes: &vaultapi.Kubernetes{Mount: "k2", Role: "kg", JWTFile: jwt}}, "auth/k2/login", `{"jwt":"header.body.signature","role":"kg"}`},
	} {
		t.Run(name, func(t *testing.T) {
			f := vaulttest.NewFake(t)
			c := client(t, config(f, test.auth))
			check(t, random(t.Context(), c))
			check(t, random(t.Context(), c))
			if f.Count(test.path) != 1 || len(f.Logins()) != 1 || f.Logins()[0] != test.body {
				t.Errorf("logins %q, at %s %d", f.Logins(), test.path, f.Count(test.path))
			}
		})
	}
}

// None of the variables that Vault's own tools know has an effect.
func TestTheEnvironmentHasNoEffect(t *testing.T) {
	for name, value := range map[string]string{
		"VAULT_ADDR": "https://127.0.0.1:1", "VAULT_AGENT_ADDR": "https://127.0.0.1:1", "VAULT_PROXY_ADDR": "http://127.0.0.1:1", "VAULT_HTTP_PROXY": "http://127.0.0.1:1",
		"HTTPS_PROXY": "http://127.0.0.1:1", "VAULT_TOKEN": "environment", "VAULT_NAMESPACE": "environment", "VAULT_HEADERS": `{"X-Environment":"yes"}`,
		"VAULT_SKIP_VERIFY": "true", "VAULT_TLS_SERVER_NAME": "environment", "VAULT_MAX_RETRIES": "9", "VAULT_CLIENT_TIMEOUT": "1", "VAULT_RATE_LIMIT": "0.001:1", "VAULT_WRAP_TTL": "60s", "VAULT_SRV_LOOKUP": "true",
	} {
		t.Setenv(name, value)
	}
	f := vaulttest.NewFake(t)
	var odd atomic.Int64
	f.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		for _, name := range []string{"X-Vault-Namespace", "X-Environment", "X-Vault-Wrap-Ttl"} {
			if r.Header.Get(name) != "" {
				odd.Add(1)
			}
		}
		if strings.Contains(r.Header.Get("X-Vault-Token"), "environment") {
			odd.Add(1)
		}
		return false
	})
	c := client(t, config(f, appRole(t)))
	for range 5 { // with the rate limit of the environment these would take hours
		check(t, random(t.Context(), c))
	}
	if odd.Load() > 0 {
		t.Errorf("%d headers came from the environment", odd.Load())
	}
	untrusted := config(f, appRole(t))
	untrusted.TLS.CA = ""
	isKind(t, random(t.Context(), client(t, untrusted)), vaultapi.Unavailable) // VAULT_SKIP_VERIFY
}

func TestTheNamespaceIsSent(t *testing.T) {
	f := vaulttest.NewFake(t)
	var without atomic.Int64
	f.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Vault-Namespace") != "team/a" {
			without.Add(1)
		}
		return false
	})
	cfg := config(f, appRole(t))
	cfg.Namespace = "team/a"
	check(t, random(t.Context(), client(t, cfg)))
	if without.Load() > 0 {
		t.Errorf("%d requests, the login among them, had no namespace", without.Load())
	}
}

// 200 calls whose token was revoked cost one question and one login, and none of
// them fails.
func TestAStormOfRefusalsIsOneLogin(t *testing.T) {
	f := vaulttest.NewFake(t)
	c := client(t, patient(t, f))
	check(t, random(t.Context(), c))
	f.RevokeAll()
	none(t, together(200, func() error { return random(t.Context(), c) }))
	if s := c.Stats(); s.Logins != 2 || s.Lookups != 1 {
		t.Errorf("%d logins and %d questions, not 2 and 1", s.Logins, s.Lookups)
	}
}

// patient is a configuration for many calls at once on a busy machine.
func patient(t *testing.T, f *vaulttest.Fake) vaultapi.Config {
	cfg := config(f, appRole(t))
	cfg.Timeout = time.Minute
	return cfg
}

// none ends the test if there is an error in errs.
func none(t *testing.T, errs []error) {
	t.Helper()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("call %d of %d: %v", i, len(errs), err)
		}
	}
}

func together(n int, f func() error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = f() })
	}
	wg.Wait()
	return errs
}

// A refusal with a good token is one of what was asked for.
func TestDeniedIsNoReasonToLogIn(t *testing.T) {
	f := vaulttest.NewFake(t)
	c := client(t, patient(t, f))
	f.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/transit/random" {
			vaulttest.Answer(w, 403, `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`)
		}
		return r.URL.Path == "/v1/transit/random"
	})
	for _, err := range together(50, func() error { return random(t.Context(), c) }) {
		isKind(t, err, vaultapi.Denied)
	}
	if s := c.Stats(); s.Logins != 1 || s.Lookups > 3 {
		t.Errorf("%d logins and %d questions", s.Logins, s.Lookups)
	}
}

// A token that may not even ask about itself is replaced once, and not again for
// each refusal.
func TestDeniedWithoutTheRightToAskIsTwoLogins(t *testing.T) {
	f := vaulttest.NewFake(t)
	c := client(t, patient(t, f))
	f.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/login") {
			return false
		}
		vaulttest.Answer(w, 403, `{"errors":["permission denied"]}`)
		return true
	})
	for range 5 {
		for _, err := range together(20, func() error { return random(t.Context(), c) }) {
			isKind(t, err, vaultapi.Denied)
		}
	}
	if s := c.Stats(); s.Logins > 2 {
		t.Errorf("%d logins", s.Logins)
	}
}

func TestLoginsThatFailAreNotRepeatedAtOnce(t *testing.T) {
	t.Parallel()
	f := vaulttest.NewFake(t)
	f.RefuseLogins(true)
	c := client(t, patient(t, f))
	start := time.Now()
	for time.Since(start) < 300*time.Millisecond {
		for _, err := range together(20, func() error { return random(t.Context(), c) }) {
			isKind(t, err, vaultapi.Denied)
		}
	}
	if n := f.Count("auth/approle/login"); n > 6 {
		t.Errorf("%d logins in %v", n, time.Since(start))
	}
	f.RefuseLogins(false)
	eventually(t, func() bool { return random(t.Context(), c) == nil })
}

func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 15 s")
		}
	}
}

func TestTokensAreRenewedAtHalfOfTheirLife(t *testing.T) {
	t.Parallel()
	f := vaulttest.NewFake(t)
	f.Tokens(2*time.Second, time.Hour, true)
	c := client(t, config(f, appRole(t)))
	for start := time.Now(); time.Since(start) < 3500*time.Millisecond; time.Sleep(20 * time.Millisecond) {
		check(t, random(t.Context(), c))
	}
	if s := c.Stats(); s.Logins != 1 || s.Renewals < 2 || s.Renewals > 4 || s.Lookups != 0 {
		t.Errorf("%+v: not 1 login and about 3 renewals", s)
	}
}

func TestTokensThatCannotBeRenewedAreReplaced(t *testing.T) {
	t.Parallel()
	f := vaulttest.NewFake(t)
	f.Tokens(2*time.Second, 2*time.Second, false)
	c := client(t, config(f, appRole(t)))
	for start := time.Now(); time.Since(start) < 3500*time.Millisecond; time.Sleep(20 * time.Millisecond) {
		check(t, random(t.Context(), c))
	}
	if s := c.Stats(); s.Logins < 3 || s.Logins > 5 || s.Renewals != 0 || s.Lookups != 0 {
		t.Errorf("%+v: not about 4 logins", s)
	}
}

func TestTokensAtTheEndOfTheirLongestLifeAreReplaced(t *testing.T) {
	t.Parallel()
	f := vaulttest.NewFake(t)
	f.Tokens(2*time.Second, 3*time.Second, true)
	c := client(t, config(f, appRole(t)))
	for start := time.Now(); time.Since(start) < 5*time.Second; time.Sleep(20 * time.Millisecond) {
		check(t, random(t.Context(), c))
	}
	if s := c.Stats(); s.Logins < 2 || s.Renewals < 2 || s.LoginFailures+s.RenewalFailures+s.Lookups != 0 {
		t.Errorf("%+v: not 2 logins and some renewals", s)
	}
}

func TestATokenFileIsReadAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	f := vaulttest.NewFake(t)
	one, two := f.NewToken(0), f.NewToken(0)
	path := vaulttest.TokenFile(t, one)
	var used atomic.Value
	f.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/transit/random" {
			used.Store(r.Header.Get("X-Vault-Token"))
		}
		return false
	})
	c := client(t, config(f, vaultapi.Auth{TokenFile: path}))
	check(t, random(t.Context(), c))
	if used.Load() != one {
		t.Fatal("another token than that of the file was used")
	}
	check(t, os.WriteFile(path+".new", []byte(two), 0o600))
	check(t, os.Rename(path+".new", path))
	eventually(t, func() bool { check(t, random(t.Context(), c)); return used.Load() == two })

	// One that is refused is read again at once.
	three := f.NewToken(0)
	check(t, os.WriteFile(path, []byte(three), 0o600))
	f.RevokeAll()
	isKind(t, random(t.Context(), c), vaultapi.Denied)
	four := f.NewToken(0)
	check(t, os.WriteFile(path, []byte(four), 0o600))
	eventually(t, func() bool { return random(t.Context(), c) == nil })
	if f.Count("revoke-self") != 0 {
		t.Error("a token that was made by others was revoked")
	}
}

func TestFilesWithSecretsAreNotForAll(t *testing.T) {
	f := vaulttest.NewFake(t)
	path := vaulttest.TokenFile(t, f.Root)
	check(t, os.Chmod(path, 0o644))
	err := random(t.Context(), client(t, config(f, vaultapi.Auth{TokenFile: path})))
	isKind(t, err, vaultapi.Unavailable)
	if !strings.Contains(err.Error(), "chmod 0400") {
		t.Errorf("%v does not say what to do", err)
	}
}

func TestCloseGivesTheTokenBack(t *testing.T) {
	f := vaulttest.NewFake(t)
	c := client(t, config(f, appRole(t)))
	check(t, random(t.Context(), c))
	check(t, c.Close())
	check(t, c.Close())
	if f.Count("revoke-self") != 1 {
		t.Errorf("%d tokens were given back", f.Count("revoke-self"))
	}
	isKind(t, random(t.Context(), c), vaultapi.Unavailable)
}

// answers has the nth request to transit/random answered by f[n]; nil, and all
// after them, are answered well.
func answers(f *vaulttest.Fake, faults ...func(http.ResponseWriter)) *atomic.Int64 {
	n := new(atomic.Int64)
	f.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/transit/random" {
			return false
		}
		i := int(n.Add(1)) - 1
		if i >= len(faults) || faults[i] == nil {
			return false
		}
		faults[i](w)
		return true
	})
	return n
}

func status(code int, body string, header ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		vaulttest.Answer(w, code, body)
	}
}

// cut ends the connection without an answer, or in the middle of one.
func cut(w http.ResponseWriter) { panic(http.ErrAbortHandler) }

func half(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "1000")
	io.WriteString(w, `{"data":{"random_bytes":"AAAA`)
	panic(http.ErrAbortHandler)
}

func TestWhatAnAnswerMeans(t *testing.T) {
	const sealed = `{"errors":["Vault is sealed"]}`
	long := strings.Repeat("x", 33<<20)
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter)
		kind   vaultapi.Kind
	}{
		"refused":              {status(400, `{"errors":["cipher: message authentication failed"]}`), vaultapi.Refused},
		"400 of a proxy":       {status(400, `<html>bad request</html>`), vaultapi.Unavailable},
		"400 without a word":   {status(400, `{"errors":[]}`), vaultapi.Unavailable},
		"nothing there":        {status(404, `{"errors":[]}`), vaultapi.Absent},
		"no such mount":        {status(404, `{"errors":["no handler for route \"x\". route entry not found."]}`), vaultapi.Unavailable},
		"404 of a proxy":       {status(404, `not found`), vaultapi.Unavailable},
		"403 of a proxy":       {status(403, `<html>forbidden</html>`), vaultapi.Unavailable},
		"405":                  {status(405, `{"errors":["unsupported operation"]}`), vaultapi.Unavailable},
		"precondition":         {status(412, `{"errors":["required index state not present"]}`), vaultapi.Unavailable},
		"throttled":            {status(429, `{"errors":["request path: rate limit quota exceeded"]}`, "Retry-After", "60"), vaultapi.Unavailable},
		"standby":              {status(429, `{"standby":true}`), vaultapi.Unavailable},
		"disaster recovery":    {status(472, `{}`), vaultapi.Unavailable},
		"performance standby":  {status(473, `{}`), vaultapi.Unavailable},
		"internal error":       {status(500, `{"errors":["1 error occurred"]}`), vaultapi.Unavailable},
		"bad gateway":          {status(502, `bad gateway`), vaultapi.Unavailable},
		"sealed":               {status(503, sealed), vaultapi.Unavailable},
		"not initialised":      {status(501, `{}`), vaultapi.Unavailable},
		"cut":                  {cut, vaultapi.Unavailable},
		"cut in the middle":    {half, vaultapi.Unavailable},
		"no JSON":              {status(200, `<html>welcome</html>`), vaultapi.Unavailable},
		"no data":              {status(200, `{"data":null}`), vaultapi.Unavailable},
		"data of another type": {status(200, `{"data":{"random_bytes":7}}`), vaultapi.Unavailable},
		"no body":              {status(200, ``), vaultapi.Unavailable},
		"another good status":  {status(206, `{"data":{"random_bytes":"AAAAAAAAAAAAAAAAAAAAAA=="}}`), vaultapi.Unavailable},
		"no content":           {func(w http.ResponseWriter) { w.WriteHeader(204) }, vaultapi.Unavailable},
		"far too long":         {status(200, `{"data":{"random_bytes":"`+long+`"}}`), vaultapi.Unavailable},
		"a redirect to http":   {func(w http.ResponseWriter) { w.Header().Set("Location", "http://127.0.0.1:1/"); w.WriteHeader(307) }, vaultapi.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := vaulttest.NewFake(t)
			cfg := config(f, appRole(t))
			c := client(t, cfg)
			answers(f, test.answer, test.answer, test.answer, test.answer, test.answer)
			start := time.Now()
			err := random(t.Context(), c)
			isKind(t, err, test.kind)
			if took := time.Since(start); took > cfg.Timeout+time.Second {
				t.Errorf("it took %v", took)
			}
			if len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\n\t<") {
				t.Errorf("the error is %.500q", err)
			}
		})
	}
}

func TestAFaultThatPassesIsNotSeen(t *testing.T) {
	for name, fault := range map[string]func(http.ResponseWriter){
		"precondition": status(412, `{"errors":["required index state not present"]}`), "standby": status(429, `{}`), "throttled": status(429, `{"errors":["quota"]}`, "Retry-After", "1"),
		"performance standby": status(473, `{}`), "bad gateway": status(502, ``), "internal": status(500, `{"errors":["x"]}`), "cut": cut, "half": half,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := vaulttest.NewFake(t)
			cfg := config(f, appRole(t))
			cfg.Timeout = 10 * time.Second
			c := client(t, cfg)
			n := answers(f, fault, fault)
			start := time.Now()
			check(t, random(t.Context(), c))
			if n.Load() != 3 || c.Stats().Retries != 2 {
				t.Errorf("%d requests, %d retries", n.Load(), c.Stats().Retries)
			}
			if took := time.Since(start); name == "throttled" && took < 2*time.Second {
				t.Errorf("it took %v: the server said to wait for 1 s, twice", took)
			}
		})
	}
}

// What must not happen twice is repeated only if it cannot have happened.
func TestAWriteOnceIsNotRepeated(t *testing.T) {
	for name, test := range map[string]struct {
		fault func(http.ResponseWriter)
		want  int64
	}{
		"cut": {cut, 1}, "half": {half, 1}, "internal": {status(500, `{"errors":["x"]}`), 1}, "sealed": {status(503, `{"errors":["Vault is sealed"]}`), 1}, "bad gateway": {status(502, ``), 1},
		"precondition": {status(412, `{"errors":["x"]}`), 2}, "throttled": {status(429, `{"errors":["x"]}`), 2},
	} {
		f := vaulttest.NewFake(t)
		c := client(t, config(f, appRole(t)))
		n := answers(f, test.fault)
		err := c.WriteOnce(t.Context(), "transit/random", map[string]int{"bytes": 1}, nil)
		if n.Load() != test.want || (err == nil) != (test.want == 2) {
			t.Errorf("%s: %d requests, error %v", name, n.Load(), err)
		}
	}
}

func TestADeadlineIsKept(t *testing.T) {
	f := vaulttest.NewFake(t)
	cfg := config(f, appRole(t))
	cfg.Timeout = 300 * time.Millisecond
	c := client(t, cfg)
	check(t, random(t.Context(), c))
	release := make(chan struct{})
	defer close(release)
	slow := func(http.ResponseWriter) { <-release }
	answers(f, slow, slow, slow, slow, slow)
	start := time.Now()
	err := random(t.Context(), c)
	isKind(t, err, vaultapi.Unavailable)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 2*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if err := random(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("%v does not say that the call was cancelled", err)
	}
	// Where the server says to wait for longer than there is time, there is no wait.
	answers(f, status(429, `{"errors":["quota"]}`, "Retry-After", "3600"))
	start = time.Now()
	isKind(t, random(t.Context(), c), vaultapi.Unavailable)
	if took := time.Since(start); took > 200*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

// A slow server is not made slower by a connection for each call that waits.
func TestConnectionsAreBounded(t *testing.T) {
	f := vaulttest.NewFake(t)
	c := client(t, patient(t, f))
	f.SetFault(func(http.ResponseWriter, *http.Request) bool {
		time.Sleep(50 * time.Millisecond)
		return false
	})
	none(t, together(500, func() error { return random(t.Context(), c) }))
	if n := f.Connections(); n > 64+1 { // and one of the login
		t.Errorf("%d connections", n)
	}
}

// A login does not wait for the calls that hang, whatever their number.
func TestALoginHasConnectionsOfItsOwn(t *testing.T) {
	f := vaulttest.NewFake(t)
	f.Tokens(2*time.Second, 2*time.Second, false)
	c := client(t, patient(t, f))
	check(t, random(t.Context(), c))
	release := make(chan struct{})
	f.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/transit/random" {
			<-release
		}
		return false
	})
	done := make(chan []error)
	go func() { done <- together(100, func() error { return random(t.Context(), c) }) }()
	eventually(t, func() bool { return c.Stats().Logins >= 3 })
	close(release)
	none(t, <-done)
}

// The login of one caller that goes away is that of all who wait.
func TestALoginOutlivesItsCaller(t *testing.T) {
	f := vaulttest.NewFake(t)
	c := client(t, config(f, appRole(t)))
	release := make(chan struct{})
	f.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/login") {
			<-release
		}
		return false
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- random(ctx, c) }()
	eventually(t, func() bool { return f.Count("/login") == 1 })
	second := make(chan error, 1)
	go func() { second <- random(t.Context(), c) }()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	close(release)
	check(t, <-second)
	if n := f.Count("/login"); n != 1 {
		t.Errorf("%d logins", n)
	}
}

// A standby that does not forward sends the caller, with all of the request, to
// the active node.
func TestARedirectIsFollowedWithTheBody(t *testing.T) {
	active, standby := vaulttest.NewFake(t), vaulttest.NewFake(t)
	pair := filepath.Join(t.TempDir(), "both.pem")
	var both []byte
	for _, f := range []*vaulttest.Fake{active, standby} {
		text, err := os.ReadFile(f.CAFile)
		check(t, err)
		both = append(both, text...)
	}
	check(t, os.WriteFile(pair, both, 0o600))
	standby.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Location", active.Address+r.URL.Path)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	})
	cfg := config(standby, appRole(t))
	cfg.TLS.CA = pair
	check(t, random(t.Context(), client(t, cfg)))
	if got := active.Logins(); len(got) != 1 || !strings.Contains(got[0], "secret-1") {
		t.Errorf("the active node got the logins %q", got)
	}
}

func TestAServerThatIsNotThere(t *testing.T) {
	f := vaulttest.NewFake(t)
	cfg := config(f, appRole(t))
	cfg.Address = "https://127.0.0.1:1"
	isKind(t, random(t.Context(), client(t, cfg)), vaultapi.Unavailable)
	cfg = config(f, appRole(t))
	cfg.TLS.ServerName = "another.example"
	isKind(t, random(t.Context(), client(t, cfg)), vaultapi.Unavailable)
	cfg.TLS.ServerName = "example.com" // is in the fake's certificate
	check(t, random(t.Context(), client(t, cfg)))
}

// Neither tokens nor what a login sends are in a log, an error or a print.
func TestSecretsAreNotTold(t *testing.T) {
	var log bytes.Buffer
	f := vaulttest.NewFake(t)
	f.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		vaulttest.Answer(w, 400, fmt.Sprintf(`{"errors":[%q]}`, r.Header.Get("X-Vault-Token")+string(body)))
		return strings.HasSuffix(r.URL.Path, "/login")
	})
	c, err := vaultapi.New(config(f, appRole(t)), slog.New(slog.NewTextHandler(&log, nil)))
	check(t, err)
	err = random(t.Context(), c)
	isKind(t, err, vaultapi.Denied)
	check(t, c.Close())
	for what, text := range map[string]string{"log": log.String(), "error": err.Error(), "print": fmt.Sprintf("%v %+v %#v", c, c, c)} {
		if strings.Contains(text, "secret-1") {
			t.Errorf("the secret is in the %s: %s", what, text)
		}
	}
	if !strings.Contains(log.String(), "login failed") {
		t.Errorf("the log does not say that the login failed: %s", log.String())
	}
}
