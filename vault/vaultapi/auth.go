package vaultapi

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// shortest is the life of a token that Vault says has 0 seconds left: 0 also
// means that there is no end.
const shortest = time.Second

// A lease is a token and how long it is good for.
type lease struct {
	token     string
	renewable bool
	ttl       time.Duration // when it was obtained or renewed; 0: it does not expire
	since     time.Time     // when that was
	own       bool          // a login of ours made it, so that it is ours to revoke
}

// Format hides the token.
func (l *lease) Format(f fmt.State, _ rune) { io.WriteString(f, "vaultapi.lease") }

func (l *lease) expired(now time.Time) bool { return l.ttl > 0 && now.Sub(l.since) >= l.ttl }

// authAnswer is what a login and a renewal return beside their data.
type authAnswer struct {
	ClientToken   string `json:"client_token"`
	LeaseDuration int64  `json:"lease_duration"` // in seconds; 0: for ever
	Renewable     bool   `json:"renewable"`
}

func (a authAnswer) lease(since time.Time) *lease {
	return &lease{token: a.ClientToken, renewable: a.Renewable, ttl: time.Duration(a.LeaseDuration) * time.Second, since: since, own: true}
}

// login obtains a token in the way of the configuration.
func (c *Client) login(ctx context.Context) (*lease, error) {
	switch a := c.cfg.Auth; {
	case a.AppRole != nil:
		secretID, err := readOptional(a.AppRole.SecretIDFile)
		if err != nil {
			return nil, fmt.Errorf("vaultapi: auth.approle.secret_id_file: %w", err)
		}
		return c.loginAt(ctx, cmp.Or(a.AppRole.Mount, DefaultAppRoleMount), map[string]string{"role_id": a.AppRole.RoleID, "secret_id": secretID})
	case a.Kubernetes != nil:
		// Kubernetes makes the file readable for all of the pod.
		jwt, err := readSecret(cmp.Or(a.Kubernetes.JWTFile, DefaultJWTFile), 0)
		if err != nil {
			return nil, fmt.Errorf("vaultapi: auth.kubernetes.jwt_file: %w", err)
		}
		return c.loginAt(ctx, cmp.Or(a.Kubernetes.Mount, DefaultKubernetesMount), map[string]string{"role": a.Kubernetes.Role, "jwt": jwt})
	case a.Cert != nil:
		return c.loginAt(ctx, cmp.Or(a.Cert.Mount, DefaultCertMount), map[string]string{"name": a.Cert.Role})
	}
	token, err := readSecret(c.cfg.Auth.TokenFile, othersMayUse)
	if err != nil {
		return nil, fmt.Errorf("vaultapi: auth.token_file: %w", err)
	}
	return c.lookUp(ctx, token)
}

func (c *Client) loginAt(ctx context.Context, mount string, body any) (*lease, error) {
	start := time.Now()
	answer, err := c.exchange(ctx, c.logins, "", request{method: methodWrite, path: "auth/" + mount + "/login", in: body, silent: true})
	if err != nil {
		return nil, loginError(err)
	}
	if answer.Auth == nil || answer.Auth.ClientToken == "" {
		return nil, &Error{Op: "login at " + mount, Status: 200, cause: errMalformed}
	}
	return answer.Auth.lease(start), nil
}

// loginError: a login that the server takes for wrong is one that it refuses.
func loginError(err *Error) error {
	if err.Kind == Refused || err.Kind == Absent {
		err.Kind = Denied
	}
	return err
}

// lookUp returns the lease of a token that was made elsewhere. A server that
// refuses to say how long it is good for may take the token all the same, as one
// whose policies do not let it look at itself.
func (c *Client) lookUp(ctx context.Context, token string) (*lease, error) {
	var self struct {
		TTL       int64   `json:"ttl"`         // in seconds, rounded down
		Expires   *string `json:"expire_time"` // null: never
		Renewable bool    `json:"renewable"`
	}
	start := time.Now()
	answer, err := c.exchange(ctx, c.logins, token, request{method: methodRead, path: "auth/token/lookup-self"})
	if err != nil && err.Kind == Denied {
		return &lease{token: token, since: start}, nil
	}
	if err != nil {
		return nil, err
	}
	if err := answer.decode("lookup-self", &self); err != nil {
		return nil, err
	}
	l := &lease{token: token, renewable: self.Renewable, since: start}
	if self.Expires != nil {
		l.ttl = max(time.Duration(self.TTL)*time.Second, shortest)
	}
	return l, nil
}

// renew prolongs l. The answer of a server that has reached the token's longest
// life is a lease that ends when l does.
func (c *Client) renew(ctx context.Context, l *lease) (*lease, error) {
	start := time.Now()
	answer, err := c.exchange(ctx, c.logins, l.token, request{method: methodWrite, path: "auth/token/renew-self", in: struct{}{}, silent: true})
	if err != nil {
		return nil, err
	}
	if answer.Auth == nil {
		return nil, &Error{Op: "renew-self", Status: 200, cause: errMalformed}
	}
	renewed := answer.Auth.lease(start)
	renewed.token, renewed.own = l.token, l.own
	if l.ttl > 0 {
		renewed.ttl = max(renewed.ttl, shortest)
	}
	return renewed, nil
}

// valid reports whether the server knows the token of l. denied: it does not, or
// the token may not ask.
func (c *Client) valid(ctx context.Context, l *lease) (ok, denied bool) {
	_, err := c.exchange(ctx, c.logins, l.token, request{method: methodRead, path: "auth/token/lookup-self"})
	return err == nil, err != nil && err.Kind == Denied
}

// revoke ends the token of l, as far as it can be: it ends by itself in time.
func (c *Client) revoke(ctx context.Context, l *lease) {
	c.exchange(ctx, c.logins, l.token, request{method: methodWrite, path: "auth/token/revoke-self", in: struct{}{}, silent: true})
}

const (
	othersMayUse = 0o007    // bits of a mode that no file with a secret has
	maxSecret    = 64 << 10 // bytes of one
)

func readOptional(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return readSecret(path, othersMayUse)
}

// readSecret reads a file of one line. Its mode must have none of the bits of
// forbidden.
func readSecret(path string, forbidden os.FileMode) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if perm := info.Mode().Perm(); info.Mode().IsRegular() && perm&forbidden != 0 {
		return "", fmt.Errorf("every user of this machine may use it (mode %04o): chmod 0400 %s", perm, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return "", err
	}
	secret := strings.TrimSpace(string(text))
	if secret == "" || len(text) == maxSecret || strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s does not hold one word of printable characters", path)
	}
	return secret, nil
}
