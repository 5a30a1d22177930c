package soak_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"
)

// badConnections are ways in which a connection comes to nothing.
var badConnections = []struct {
	name string
	do   func(g *gateway) error
}{
	{"that is closed at once", func(g *gateway) error { return g.dial(func(net.Conn) error { return nil }) }},
	{"that is reset", func(g *gateway) error {
		return g.dial(func(c net.Conn) error { return c.(*net.TCPConn).SetLinger(0) })
	}},
	{"that is no TLS", func(g *gateway) error {
		return g.dial(func(c net.Conn) error {
			fmt.Fprint(c, "GET / HTTP/1.1\r\n\r\n")
			return drain(c)
		})
	}},
	{"that ends within the handshake", func(g *gateway) error {
		return g.dial(func(c net.Conn) error {
			_, err := c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3})
			return err
		})
	}},
	{"without a client certificate", func(g *gateway) error { return g.handshake(&tls.Config{RootCAs: program.roots}, "") }},
	{"that speaks an old TLS", func(g *gateway) error {
		return g.dial(func(c net.Conn) error {
			t := tls.Client(c, &tls.Config{RootCAs: program.roots, ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
			if t.HandshakeContext(context.Background()) == nil {
				return fmt.Errorf("%w: TLS 1.1 is spoken", errWrong)
			}
			return nil
		})
	}},
	{"that says no HTTP", func(g *gateway) error { return g.handshake(withCertificate(), "\x00\x01\x02\r\n\r\n") }},
	{"that ends within a request", func(g *gateway) error {
		return g.handshake(withCertificate(), "PUT /v1/key/generate/soak-direct-0 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	}},
	{"that breaks HTTP/2", func(g *gateway) error {
		cfg := withCertificate()
		cfg.NextProtos = []string{"h2"}
		return g.handshake(cfg, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	}},
}

func withCertificate() *tls.Config {
	return &tls.Config{RootCAs: program.roots, Certificates: []tls.Certificate{program.clients["app-0"]}}
}

// dial makes a connection, does something with it and closes it.
func (g *gateway) dial(do func(net.Conn) error) error {
	c, err := net.DialTimeout("tcp", g.addr, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	return do(c)
}

// handshake makes a connection with TLS, says something on it and closes it. In
// TLS 1.3 the client's handshake ends before the server has refused its
// certificate, so that it may succeed.
func (g *gateway) handshake(cfg *tls.Config, say string) error {
	return g.dial(func(c net.Conn) error {
		cfg.ServerName = "localhost"
		t := tls.Client(c, cfg)
		if err := t.Handshake(); err != nil {
			return nil
		}
		if _, err := t.Write([]byte(say)); err == nil && say == "" {
			return drain(c)
		}
		return nil
	})
}

// drain reads to the end of a connection that the server ends.
func drain(c net.Conn) error {
	b := make([]byte, 1024)
	for {
		if _, err := c.Read(b); err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				return err
			}
			return nil
		}
	}
}

// badConnections makes such connections, each interval another, until ctx ends.
func (l *load) badConnections(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bad := badConnections[n%len(badConnections)]
		l.count("a connection "+bad.name, 0, bad.do(l.g))
	}
}
