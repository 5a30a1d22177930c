package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"
)

// A request is rendered once, for either protocol, so that the load generator's
// own share of a small machine stays low.
type request struct {
	path string
	body []byte
	h1   []byte // the whole request of HTTP/1.1
	h2   []byte // the header block of HTTP/2, without dynamic entries
}

// An answer is what the load generator looks at of one.
type answer struct {
	status     int
	retryAfter bool   // the header is there
	body       []byte // nil unless the client keeps bodies
}

// A client sends requests over one connection. That of HTTP/1.1 serves one
// caller at a time, that of HTTP/2 any number. After an error other than
// errCancelled the connection is of no use.
type client interface {
	do(r *request, patience time.Duration) (answer, error)
	close()
}

// errCancelled says that a request was cancelled because its patience ended.
var errCancelled = errors.New("cancelled")

// A protocol is how a client talks.
type protocol string

const (
	http1 protocol = "http/1.1"
	http2 protocol = "h2"
)

// A target is a server and who calls it.
type target struct {
	addr string
	ca   *x509.CertPool
	as   []tls.Certificate // the identities of connections, in turn
}

// dialTime bounds a connect and its handshake.
const dialTime = 20 * time.Second

// dial opens connection number n.
func (t target) dial(ctx context.Context, p protocol, n int) (client, error) {
	c, err := t.dialTLS(ctx, p, n)
	if err != nil {
		return nil, err
	}
	if p == http2 {
		return newH2(c)
	}
	return newH1(c), nil
}

func (t target) dialTLS(ctx context.Context, p protocol, n int) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	d := tls.Dialer{NetDialer: new(net.Dialer), Config: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: t.ca,
		Certificates: []tls.Certificate{t.as[n%len(t.as)]}, NextProtos: []string{string(p)},
	}}
	conn, err := d.DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	c := conn.(*tls.Conn) // as tls.Dialer promises
	if got := c.ConnectionState().NegotiatedProtocol; got != string(p) {
		c.Close()
		return nil, fmt.Errorf("the server speaks %q, not %s", got, p)
	}
	return c, nil
}

// newRequest renders a POST of a JSON body.
func newRequest(path string, body []byte) *request {
	r := &request{path: path, body: body}
	r.h1 = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, len(body))
	r.h1 = append(r.h1, body...)
	r.h2 = headerBlock("POST", path, len(body))
	return r
}

// newGet renders a GET.
func newGet(path string) *request {
	return &request{
		path: path,
		h1:   fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", path),
		h2:   headerBlock("GET", path, -1),
	}
}
