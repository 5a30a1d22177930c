package gateway

import (
	"crypto/x509"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Package http sets five deadlines on a connection for each request, and the gateway
// two more. Each would be a timer of the runtime's that is made, moved and stopped
// for nothing. A conn writes them down instead, and a sweeper looks at all
// connections ten times a second: deadlines are up to sweepInterval late.

// sweepInterval is how late a deadline of a connection or of a stream can be.
const sweepInterval = 100 * time.Millisecond

// A conn is a connection with deadlines that cost little, whose requests take turns
// with those of its identity.
type conn struct {
	net.Conn
	all         *conns
	read, write deadline
	turning     turning
	authorities atomic.Pointer[x509.CertPool] // that its handshake asked for; nil: none
}

func (c *conn) Read(b []byte) (int, error) {
	c.turning.give()
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.turning.take()
	}
	return n, err
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.read.put(t, c.all, c.Conn.SetReadDeadline)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.write.put(t, c.all, c.Conn.SetWriteDeadline)
}

func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *conn) Close() error {
	c.all.remove(c)
	c.turning.end()
	return c.Conn.Close()
}

// sweep ends reads and writes whose time is over.
func (c *conn) sweep(now time.Time) {
	at := c.all.time(now)
	c.read.sweep(at, now, c.Conn.SetReadDeadline)
	c.write.sweep(at, now, c.Conn.SetWriteDeadline)
}

// A deadline is one of a connection's two.
type deadline struct {
	at atomic.Int64 // as of conns.time; 0: none, or it is over

	mu   sync.Mutex
	over bool // the connection itself has been told
}

// put has the deadline be t. One that was over at the last sweep is told at once:
// package http ends a read in that way.
func (d *deadline) put(t time.Time, all *conns, tell func(time.Time) error) error {
	at := all.time(t)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case at != 0 && at <= all.now.Load():
		d.at.Store(0)
		d.over = true
		return tell(t)
	case d.over:
		d.over = false
		if err := tell(time.Time{}); err != nil {
			return err
		}
	}
	d.at.Store(at)
	return nil
}

func (d *deadline) sweep(passed int64, now time.Time, tell func(time.Time) error) {
	if at := d.at.Load(); at == 0 || passed < at {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := d.at.Load(); at == 0 || passed < at {
		return
	}
	d.at.Store(0)
	d.over = true
	tell(now) // fails only on a connection that is closed
}

// conns are the connections that are open.
type conns struct {
	began time.Time
	now   atomic.Int64 // time of the last sweep
	mu    sync.Mutex
	all   map[*conn]struct{}
}

func newConns() *conns { return &conns{began: time.Now(), all: make(map[*conn]struct{})} }

// time returns t in nanoseconds since c began, at least 1, and 0 for the zero time. It
// is that of a clock that nobody sets, as long as t is: a machine whose clock is set
// must not end, or never end, what is going on.
func (c *conns) time(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(1, int64(t.Sub(c.began)))
}

func (c *conns) add(nc net.Conn) *conn {
	added := &conn{Conn: nc, all: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[added] = struct{}{}
	return added
}

func (c *conns) remove(gone *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, gone)
}

func (c *conns) sweep(now time.Time) {
	c.now.Store(c.time(now))
	c.mu.Lock()
	defer c.mu.Unlock()
	for one := range c.all {
		one.sweep(now)
	}
}

// A listener accepts connections with deadlines that cost little.
type listener struct {
	net.Listener
	conns *conns
}

func (l listener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.conns.add(nc), nil
}
