package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/api"
)

// A call is one request of the API.
type call struct {
	method string
	path   string // escaped
	body   *body  // nil: none
	limit  int64  // bytes of the answer
	// once says that the call changes something that a second one would answer
	// otherwise: it is not sent again if it may have arrived.
	once bool
}

// The pause before the second round, if each gateway answered 503.
const (
	defaultPause = 200 * time.Millisecond
	maxPause     = time.Second
)

// do sends a call to the preferred gateway, and to the others in turn where
// that can help. If in the end one says 503, which means "try again", it waits
// and does so once. The answer is the caller's to wipe.
func (c *Client) do(ctx context.Context, r call) ([]byte, error) {
	a := c.round(ctx, r)
	if a.status == http.StatusServiceUnavailable && a.mayRepeat(r) {
		if err := sleep(ctx, a.pause); err != nil {
			return nil, fmt.Errorf("%w (%w)", a.err, err)
		}
		a = c.round(ctx, r)
	}
	return a.answer, a.err
}

func (c *Client) round(ctx context.Context, r call) attempt {
	n := uint32(len(c.endpoints))
	first := c.preferred.Load()
	var a attempt
	for i := range n {
		at := (first + i) % n
		a = c.try(ctx, c.endpoints[at], r)
		if !a.failed() {
			c.preferred.Store(at)
			return a
		}
		if ctx.Err() != nil || !a.mayRepeat(r) {
			return a
		}
	}
	return a
}

// An attempt is what came of sending a call to one gateway.
type attempt struct {
	answer []byte
	err    error
	status int  // zero: there was no answer
	sent   bool // the gateway may have seen the request
	pause  time.Duration
}

// failed reports whether another gateway may do better.
func (a attempt) failed() bool {
	return a.err != nil && (a.status == 0 || elsewhere(a.status))
}

// elsewhere reports whether another gateway may answer otherwise. 501 is the
// answer of all of them.
func elsewhere(status int) bool {
	return status >= 500 && status != http.StatusNotImplemented
}

func (a attempt) mayRepeat(r call) bool { return !(r.once && a.sent) }

func (c *Client) try(ctx context.Context, endpoint string, r call) attempt {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	resp, sent, err := c.open(ctx, endpoint, r)
	a := attempt{sent: sent}
	if err != nil {
		a.err = err
		return a
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		a.status, a.pause = resp.StatusCode, pause(resp.Header)
		a.err = api.ReadError(resp)
		return a
	}
	if a.answer, err = readAll(resp, r.limit); err != nil {
		clear(a.answer)
		a.err = fmt.Errorf("client: %s: %w", endpoint, err)
		return a
	}
	a.status = resp.StatusCode
	return a
}

// open sends a call and returns the answer, whatever its status. The caller
// closes its body. sent reports whether the gateway may have seen the call.
func (c *Client) open(ctx context.Context, endpoint string, r call) (resp *http.Response, sent bool, err error) {
	var wrote atomic.Bool
	trace := &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), r.method, endpoint+r.path, nil)
	if err != nil {
		return nil, false, fmt.Errorf("client: %s: %w", endpoint, err)
	}
	if r.body != nil {
		r.body.attach(req)
	}
	resp, err = c.http.Do(req)
	if err != nil {
		// Without the method and the path, that url.Error repeats.
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		return nil, wrote.Load(), fmt.Errorf("client: %s: %w", endpoint, err)
	}
	return resp, true, nil
}

// readAll reads an answer of at most limit bytes.
func readAll(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("the answer has %d bytes, more than %d", resp.ContentLength, limit)
	}
	if resp.ContentLength >= 0 {
		b := make([]byte, resp.ContentLength) // once, so that no copy stays behind
		_, err := io.ReadFull(resp.Body, b)
		return b, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("the answer has more than %d bytes", limit)
	}
	return b, err
}

// pause returns how long the gateway asks to wait, within bounds.
func pause(h http.Header) time.Duration {
	seconds, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return defaultPause
	}
	return min(time.Duration(seconds)*time.Second, maxPause)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
