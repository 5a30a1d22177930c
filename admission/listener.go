package admission

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// A Listener accepts a bounded number of connections, in all and from one address.
// What comes beyond is closed at once: that costs less than anything that it could
// be told. It is safe for concurrent use.
type Listener struct {
	net.Listener
	total, source int

	open    atomic.Int64
	full    atomic.Uint64 // connections that were closed as there were too many
	crowded atomic.Uint64 // the same, of one address
	failed  atomic.Uint64 // accepts that failed: no file descriptor is left, or the client is gone

	mu      sync.Mutex
	sources map[netip.Addr]int
}

// NewListener returns ln with at most total connections open at a time, source of
// them from one IP address; a /64 network of IPv6 counts as one.
func NewListener(ln net.Listener, total, source int) *Listener {
	return &Listener{Listener: ln, total: total, source: source, sources: make(map[netip.Addr]int)}
}

// Counts returns how many connections are open, and how many were closed at once:
// as there were too many, or too many of one address. failed counts accepts that
// failed.
func (l *Listener) Counts() (open int, full, crowded, failed uint64) {
	return int(l.open.Load()), l.full.Load(), l.crowded.Load(), l.failed.Load()
}

// Accept returns the next connection within the bounds.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			l.failed.Add(1)
			return nil, err
		}
		source := sourceOf(c.RemoteAddr())
		if l.enter(source) {
			return &conn{Conn: c, leave: sync.OnceFunc(func() { l.leave(source) })}, nil
		}
		drop(c)
	}
}

func (l *Listener) enter(source netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case int(l.open.Load()) >= l.total:
		l.full.Add(1)
		return false
	case l.sources[source] >= l.source:
		l.crowded.Add(1)
		return false
	}
	l.open.Add(1)
	l.sources[source]++
	return true
}

func (l *Listener) leave(source netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open.Add(-1)
	if l.sources[source]--; l.sources[source] == 0 {
		delete(l.sources, source)
	}
}

// sourceOf returns who is counted as one. What has no IP address is all the same.
func sourceOf(a net.Addr) netip.Addr {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := t.AddrPort().Addr().Unmap().WithZone("")
	if ip.Is6() { // one host has as many addresses as it likes
		if p, err := ip.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return ip
}

// drop closes c with a reset, which leaves nothing behind on this side.
func drop(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}

// A conn is counted until it is closed.
type conn struct {
	net.Conn
	leave func()
}

func (c *conn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
