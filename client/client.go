// Package client calls the REST API of a gateway: a function an operation.
//
// Errors that a gateway answers are *api.Error values, so that
//
//	errors.Is(err, kms.ErrKeyNotFound)
//
// works as it does inside the gateway.
package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// DefaultPort is the port of an endpoint that names none.
const DefaultPort = "7373"

// DefaultTimeout is a little more than the longest time that a gateway gives
// an operation, so that its answer comes first.
const DefaultTimeout = 20 * time.Second

// Config holds the settings of a Client.
type Config struct {
	// Endpoints are the gateways of one cluster: "host", "host:port" or
	// "https://host:port". At least one. The first that answers is used until
	// it fails.
	Endpoints []string

	// Certificate identifies the client.
	Certificate tls.Certificate
	// GetCertificate, if not nil, is used in the place of Certificate at each
	// handshake: for certificates that are renewed while the client runs.
	GetCertificate func() (*tls.Certificate, error)

	// RootCAs are those that the gateways' certificates must lead to. Nil
	// means the system's.
	RootCAs *x509.CertPool
	// InsecureSkipVerify accepts any server. Whoever answers then sees every
	// key and plaintext: for tests only.
	InsecureSkipVerify bool

	// Timeout bounds each attempt of an operation, but not a log stream. Zero
	// means DefaultTimeout.
	Timeout time.Duration
}

// A Client calls the gateways of one cluster. It keeps connections open, one to
// each gateway where HTTP/2 is spoken, and is safe for concurrent use.
type Client struct {
	endpoints []string // "https://host:port"
	preferred atomic.Uint32
	http      *http.Client
	timeout   time.Duration
}

// New returns a client. It does no I/O.
func New(cfg Config) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("client: no endpoint")
	}
	if cfg.Timeout < 0 {
		return nil, errors.New("client: negative timeout")
	}
	c := &Client{timeout: cfg.Timeout, http: &http.Client{
		Transport: transport(cfg),
		// A gateway never redirects. Whoever does is not sent a key.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	for _, e := range cfg.Endpoints {
		base, err := parseEndpoint(e)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, base)
	}
	return c, nil
}

// Close closes the connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// parseEndpoint returns the base URL of an endpoint.
func parseEndpoint(s string) (string, error) {
	rest := strings.TrimSuffix(strings.TrimPrefix(s, "https://"), "/")
	u, err := url.Parse("https://" + rest)
	if err != nil || u.Host != rest || u.Hostname() == "" {
		return "", fmt.Errorf("client: endpoint %q is not host:port or https://host:port", s)
	}
	port := u.Port()
	if port == "" {
		port = DefaultPort
	}
	return "https://" + net.JoinHostPort(u.Hostname(), port), nil
}

func transport(cfg Config) *http.Transport {
	certificate := cfg.GetCertificate
	if certificate == nil {
		certificate = func() (*tls.Certificate, error) { return &cfg.Certificate, nil }
	}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 64,               // without HTTP/2, the default of 2 makes a handshake of nearly every request
		IdleConnTimeout:     80 * time.Second, // a gateway closes after 90 s
		DisableCompression:  true,             // nothing secret is to be measured by its size
		ForceAttemptHTTP2:   true,
		// A connection that is dead, but not closed, is found by a ping.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			RootCAs:            cfg.RootCAs,
			InsecureSkipVerify: cfg.InsecureSkipVerify,
			// Unlike tls.Config.Certificates, this sends the certificate also to
			// a server that lists other authorities: its refusal says why.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate() },
		},
	}
}
