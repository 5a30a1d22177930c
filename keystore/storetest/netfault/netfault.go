// Package netfault is a TCP proxy for tests that fails in the ways that networks
// do: it cuts, is silent, delays, lets bytes through one by one, or closes one
// direction only.
package netfault

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A Mode is what a proxy does with the bytes that come.
type Mode int

const (
	Pass   Mode = iota // hands them on
	Silent             // takes them, and tells neither side
	Drip               // hands on one byte a second in each direction
	Half               // hands on what the client sends, and drops what the server does
	Refuse             // closes connections at once
)

// A Proxy stands before one server. It begins in mode Pass. It is safe for
// concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	end      chan struct{}

	mu    sync.Mutex
	mode  Mode
	delay time.Duration
	conns map[net.Conn]bool
	total int
	wait  sync.WaitGroup
}

// New returns a proxy before target, host:port, on a free port of 127.0.0.1. It
// ends with the test.
func New(tb testing.TB, target string) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{listener: l, target: target, end: make(chan struct{}), conns: make(map[net.Conn]bool)}
	p.wait.Go(p.accept)
	tb.Cleanup(func() {
		close(p.end)
		l.Close()
		p.Cut()
		p.wait.Wait()
	})
	return p
}

// Addr returns where the proxy listens, as host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Set changes the mode, of connections that are open too.
func (p *Proxy) Set(m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = m
}

// Delay holds what comes from the server back for d.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Cut closes all connections, by a reset.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
}

// Connections returns how many clients have connected so far.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

func (p *Proxy) state() (Mode, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode, p.delay
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wait.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.forget(client)
	if m, _ := p.state(); m == Refuse || !p.keep(client) {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.forget(server)
	if !p.keep(server) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.copy(server, client, false)
		server.Close()
	}()
	p.copy(client, server, true)
	client.Close()
	<-done
}

func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.end:
		return false
	default:
	}
	p.conns[c] = true
	p.total++
	return true
}

func (p *Proxy) forget(c net.Conn) {
	c.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// copy hands on what from sends until either ends. back says that from is the
// server.
func (p *Proxy) copy(to, from net.Conn, back bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !p.hand(to, buf[:n], back) {
			return
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) hand(to net.Conn, b []byte, back bool) bool {
	for len(b) > 0 {
		m, delay := p.state()
		n := len(b)
		switch {
		case back && delay > 0 && !p.sleep(delay):
			return false
		case m == Silent || m == Half && back:
			return true
		case m == Drip:
			n = 1
			if !p.sleep(time.Second) {
				return false
			}
		}
		if _, err := to.Write(b[:n]); err != nil {
			return false
		}
		b = b[n:]
	}
	return true
}

func (p *Proxy) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-p.end:
		return false
	}
}
