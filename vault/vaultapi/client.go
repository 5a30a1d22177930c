package vaultapi

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
)

// A Client is one login at a server. Every method is safe for concurrent use.
// Make one with New.
type Client struct {
	cfg     Config
	log     *slog.Logger
	calls   connections
	logins  connections // of the session: a login does not wait for the calls that wait for it
	session *session
	stats   counters
}

// connections are what requests are made on: at most maxConnections at a time.
type connections struct {
	api       *api.Client
	transport *http.Transport
}

type counters struct{ requests, retries, logins, loginFailures, renewals, renewalFailures, lookups atomic.Uint64 }

// Stats counts what a Client has done.
type Stats struct {
	Requests        uint64 // of HTTP, logins and renewals included
	Retries         uint64 // of them, those that repeat one
	Logins          uint64 // that gave a token
	LoginFailures   uint64
	Renewals        uint64 // of a token
	RenewalFailures uint64
	Lookups         uint64 // whether a token that was refused is still good
}

// Stats returns the counters as they are now.
func (c *Client) Stats() Stats {
	return Stats{
		Requests: c.stats.requests.Load(), Retries: c.stats.retries.Load(),
		Logins: c.stats.logins.Load(), LoginFailures: c.stats.loginFailures.Load(),
		Renewals: c.stats.renewals.Load(), RenewalFailures: c.stats.renewalFailures.Load(),
		Lookups: c.stats.lookups.Load(),
	}
}

// Format writes which server c is a login at, whatever the verb, and not the
// token.
func (c *Client) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "vaultapi.Client(%q)", c.cfg.Address) }

// New returns a client. It reads the TLS files and connects to nothing: the
// first call logs in. A nil logger means slog.Default.
func New(cfg Config, log *slog.Logger) (*Client, error) {
	if err := errors.Join(cfg.Faults()...); err != nil {
		return nil, err
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, DefaultTimeout)
	c := &Client{cfg: cfg, log: cmp.Or(log, slog.Default())}
	var err error
	if c.calls, err = newConnections(cfg); err != nil {
		return nil, err
	}
	if c.logins, err = newConnections(cfg); err != nil {
		return nil, err
	}
	c.session = newSession(c)
	return c, nil
}

func newConnections(cfg Config) (connections, error) {
	tlsConfig, err := cfg.TLS.config()
	if err != nil {
		return connections{}, err
	}
	transport := newTransport(tlsConfig)
	client, err := newAPI(cfg, transport)
	return connections{client, transport}, err
}

// newAPI undoes what api.NewClient takes from the environment.
func newAPI(cfg Config, transport *http.Transport) (*api.Client, error) {
	client, err := api.NewClient(&api.Config{
		Address: cfg.Address,
		HttpClient: &http.Client{
			Transport:     bounded{transport},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the API client follows one itself
		},
		CheckRetry: func(context.Context, *http.Response, error) (bool, error) { return false, nil }, // as call does
	})
	if err != nil {
		return nil, fmt.Errorf("vaultapi: the environment has a VAULT_ variable that is malformed; none has an effect here, so unset it: %w", err)
	}
	client.ClearToken()
	client.SetHeaders(http.Header{api.RequestHeaderName: {"true"}})
	if cfg.Namespace != "" {
		client.SetNamespace(cfg.Namespace)
	}
	client.SetWrappingLookupFunc(func(string, string) string { return "" })
	return client, nil
}

// Close ends the login and gives the token back. Calls after it are refused.
func (c *Client) Close() error {
	c.session.close()
	c.calls.transport.CloseIdleConnections()
	c.logins.transport.CloseIdleConnections()
	return nil
}

// Write is a POST or PUT of in, as JSON, to path, which has no leading slash or
// version. If out is not nil, the data of the answer is decoded into it. The
// call may be made twice if the first had no answer.
func (c *Client) Write(ctx context.Context, path string, in, out any) error {
	return c.call(ctx, request{method: methodWrite, path: path, in: in}, out)
}

// WriteOnce is Write for what must not happen twice: it is not repeated unless
// the server has refused it before it did anything.
func (c *Client) WriteOnce(ctx context.Context, path string, in, out any) error {
	return c.call(ctx, request{method: methodWrite, path: path, in: in, once: true}, out)
}

// Read is a GET.
func (c *Client) Read(ctx context.Context, path string, out any) error {
	return c.call(ctx, request{method: methodRead, path: path}, out)
}

// List is a GET of the names below path.
func (c *Client) List(ctx context.Context, path string, out any) error {
	return c.call(ctx, request{method: methodList, path: path}, out)
}

// Delete is a DELETE of path.
func (c *Client) Delete(ctx context.Context, path string) error {
	return c.call(ctx, request{method: methodDelete, path: path}, nil)
}

// A request is one call, as Vault names the operations.
type request struct {
	method method
	path   string
	in     any
	once   bool // to repeat it is not the same as to do it once
	silent bool // what the server says of it is not told: it may be of a login
}

type method string

const (
	methodRead   method = "read"
	methodList   method = "list"
	methodWrite  method = "write"
	methodDelete method = "delete"
)

// maxTries bounds the repetitions of a call, beside its deadline.
const maxTries = 4

// call makes a request with the token of the session. It repeats it, within the
// deadline, if that may help: after a wait where the server or the way to it
// failed, and once with another token where this one was refused.
func (c *Client) call(ctx context.Context, r request, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	l, err := c.session.token(ctx)
	if err != nil {
		return sessionError(ctx, r, err)
	}
	relogged := false
	for try := 1; ; try++ {
		answer, failure := c.exchange(ctx, c.calls, l.token, r)
		if failure == nil {
			return answer.decode(r.op(), out)
		}
		if failure.Kind == Denied && !relogged {
			next, err := c.session.refused(ctx, l)
			if err != nil {
				return sessionError(ctx, r, err)
			}
			if next == nil {
				return failure // the token is good: what was asked for is not allowed
			}
			l, relogged = next, true
			continue
		}
		if failure.Kind == Denied {
			c.session.unhelpful()
			return failure
		}
		if try == maxTries || !failure.again || (r.once && !failure.early) || !pause(ctx, failure.after, try) {
			return failure
		}
		c.stats.retries.Add(1)
	}
}

// sessionError is why there is no token for r.
func sessionError(ctx context.Context, r request, err error) error {
	e := &Error{Op: r.op(), Kind: KindOf(err), cause: err}
	if ctx.Err() != nil {
		e.Kind = Unavailable
	}
	return e
}

// pause waits before the next try, for at least what the server says, and
// reports false if ctx ends first, or will: then it does not wait.
func pause(ctx context.Context, least time.Duration, try int) bool {
	wait := max(least, time.Duration(try*try)*25*time.Millisecond)
	wait += rand.N(wait/2 + 1)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

func (r request) op() string { return string(r.method) + " " + r.path }

// An answer is the body of a good answer.
type answer struct {
	Data json.RawMessage `json:"data"`
	Auth *authAnswer     `json:"auth"`
}

var errMalformed = errors.New("the answer is malformed")

// decode reads the data into out, unless it is nil, and wipes it.
func (a *answer) decode(op string, out any) error {
	defer clear(a.Data)
	if out == nil {
		return nil
	}
	if len(a.Data) == 0 || bytes.Equal(a.Data, []byte("null")) {
		return &Error{Op: op, Status: http.StatusOK, cause: errMalformed}
	}
	if err := json.Unmarshal(a.Data, out); err != nil {
		return &Error{Op: op, Status: http.StatusOK, cause: errMalformed} // err may quote the data
	}
	return nil
}

// exchange makes one request, on some connections, with token, which may be
// empty.
func (c *Client) exchange(ctx context.Context, on connections, token string, r request) (*answer, *Error) {
	c.stats.requests.Add(1)
	var body []byte
	if r.in != nil {
		var err error
		// It is not wiped: the transport may read it after the answer has come.
		if body, err = json.Marshal(r.in); err != nil {
			return nil, &Error{Op: r.op(), cause: errors.New("the request cannot be written as JSON")}
		}
	}
	resp, err := on.send(ctx, token, r, body)
	var header http.Header
	if resp != nil {
		header = resp.Header
		defer resp.Body.Close()
	}
	if err != nil {
		e := failed(ctx, r.op(), header, err)
		if resp != nil && e.Kind == Absent {
			e.Data = errorData(resp.Body)
		}
		if r.silent {
			e.Texts = nil
		}
		return nil, e
	}
	a, err := readAnswer(resp)
	if err != nil {
		return nil, failed(ctx, r.op(), header, err)
	}
	return a, nil
}

// send has the API client make the request. On a redirect it writes the body
// anew from Obj, which its raw calls do not set.
func (c connections) send(ctx context.Context, token string, r request, body []byte) (*api.Response, error) {
	logical := c.api.WithRequestCallbacks(func(req *api.Request) {
		req.ClientToken = token
		if body != nil {
			req.Obj = json.RawMessage(body)
		}
	}).Logical()
	switch r.method {
	case methodWrite:
		return logical.WriteRawWithContext(ctx, r.path, body)
	case methodDelete:
		return logical.DeleteRawWithContext(ctx, r.path)
	case methodList:
		return logical.ReadRawWithDataWithContext(ctx, r.path, map[string][]string{"list": {"true"}})
	}
	return logical.ReadRawWithContext(ctx, r.path)
}

// readAnswer reads a whole answer. None at all is good, with status 204 only.
func readAnswer(resp *api.Response) (*answer, error) {
	if resp.StatusCode == http.StatusNoContent {
		return &answer{}, nil
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return nil, fmt.Errorf("%w: status %d", errMalformed, resp.StatusCode)
	}
	var body bytes.Buffer
	if n := resp.ContentLength; n > 0 && n <= maxAnswer {
		body.Grow(int(n) + bytes.MinRead) // in one piece, so that it can be wiped
	}
	if _, err := io.Copy(&body, resp.Body); err != nil {
		return nil, err
	}
	defer clear(body.Bytes())
	a := new(answer)
	if err := json.Unmarshal(body.Bytes(), a); err != nil {
		return nil, errMalformed // err may quote the body
	}
	return a, nil
}

// errorData returns the data that came with an error, or nil.
func errorData(body io.Reader) []byte {
	var a answer
	if text, err := io.ReadAll(body); err != nil || json.Unmarshal(text, &a) != nil {
		return nil
	}
	return a.Data
}
