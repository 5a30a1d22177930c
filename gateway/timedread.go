package gateway

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keygate/keygate/kms"
)

// writeTime is what is left to write an answer when the time of its operation is
// over.
const writeTime = 5 * time.Second

// A timedRead is the reading of a body over HTTP/2, which ends at a time. Package http
// would make a timer for each, and tell the connection of it on the way of all its
// frames.
type timedRead struct {
	writer         http.ResponseWriter
	end            time.Time
	next, previous *timedRead // on the same connection
}

// timedReads are those of one connection.
type timedReads struct {
	some  atomic.Bool
	mu    sync.Mutex
	first *timedRead
}

func (l *timedReads) add(r *timedRead) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.next = l.first; r.next != nil {
		r.next.previous = r
	}
	l.first = r
	l.some.Store(true)
}

// remove takes r out. After it the sweeper no longer touches r's writer.
func (l *timedReads) remove(r *timedRead) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.next != nil {
		r.next.previous = r.previous
	}
	if r.previous != nil {
		r.previous.next = r.next
	} else {
		l.first = r.next
	}
	l.some.Store(l.first != nil)
}

func (l *timedReads) sweep(now time.Time) {
	if !l.some.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := l.first; r != nil; r = r.next {
		if !now.Before(r.end) {
			http.NewResponseController(r.writer).SetReadDeadline(now)
		}
	}
}

// rawConn returns the connection under TLS, or nil if it is none of Serve's.
func rawConn(nc net.Conn) *conn {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn()
	}
	raw, _ := nc.(*conn)
	return raw
}

// connections are those that are served.
type connections struct {
	mu  sync.Mutex
	all map[net.Conn]*connection
}

// begin is http.Server.ConnContext.
func (c *connections) begin(ctx context.Context, nc net.Conn) context.Context {
	added := &connection{raw: rawConn(nc)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = make(map[net.Conn]*connection)
	}
	c.all[nc] = added
	ctx = kms.WithCaller(ctx, func() string { return string(added.peer.identity) }) // asked for below the door only, where it is known
	return context.WithValue(ctx, connectionKey{}, added)
}

// changed is http.Server.ConnState.
func (c *connections) changed(nc net.Conn, state http.ConnState) {
	if state == http.StateClosed || state == http.StateHijacked {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.all, nc)
	}
}

func (c *connections) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.all {
		one.reads.sweep(now)
	}
}
