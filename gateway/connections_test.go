package gateway_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/keygate/keygate/gateway"
)

// connect opens a TCP connection that says nothing.
func (w *world) connect() net.Conn {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	ok(w.t, err)
	w.t.Cleanup(func() { c.Close() })
	return c
}

// closed returns whether the server has ended a connection, and waits for it until
// an instant.
func closed(c net.Conn, until time.Time) bool {
	c.SetReadDeadline(until)
	for {
		_, err := c.Read(make([]byte, 1024))
		if err != nil {
			return !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

// With KEYGATE_LONG=1 there are 10,000 connections.
func TestLD04_ConnectionsThatSayNothing(t *testing.T) {
	const each, total = 300, 400
	w := newWorld(t, limited(gateway.LimitsConfig{Connections: total, Source: each}))
	n := 1000
	if os.Getenv("KEYGATE_LONG") == "1" {
		n = 10_000
	}
	w.client(w.app).get("POST", "/v1/key/create/app-1", "", nil)
	before := runtime.NumGoroutine()
	begin := time.Now()
	var conns []net.Conn
	for range n {
		c, err := net.Dial("tcp", w.addr)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // it was closed at once
		}
		ok(t, err)
		defer c.Close()
		conns = append(conns, c)
	}
	dialled := time.Since(begin)
	kept := 0
	for _, c := range conns {
		if !closed(c, time.Now().Add(3*time.Millisecond)) {
			kept++
		}
	}
	if kept > each { // the client of this test has one, too
		t.Errorf("%d connections of one address are open, not at most %d", kept, each)
	}
	if dialled < 4*time.Second && kept < each-10 {
		t.Errorf("only %d connections were kept", kept)
	}
	if goroutines := runtime.NumGoroutine() - before; goroutines > each+20 {
		t.Errorf("%d goroutines for %d connections", goroutines, each)
	}
	for _, c := range conns {
		if !closed(c, begin.Add(dialled+8*time.Second)) {
			t.Fatal("a connection that says nothing is open after 8 s")
		}
	}
	if took := time.Since(begin); took < 5*time.Second {
		t.Errorf("the last was closed after %v, not 5 s", took)
	}
	w.client(w.app).get("POST", "/v1/key/generate/app-1", "", nil)
	eventually(t, "the goroutines end", func() bool { return runtime.NumGoroutine() <= before+10 })
	m := w.client(w.admin).do("GET", "/metrics", "").body
	if !strings.Contains(m, "\nkeygate_connections_crowded_total ") || strings.Contains(m, "\nkeygate_connections_crowded_total 0\n") {
		t.Error("the metrics do not tell of it")
	}
}

// A handshake that stops half way ends in time, too, and holds up no other.
func TestLD04_HalfHandshakes(t *testing.T) {
	w := newWorld(t, limited(gateway.LimitsConfig{Handshakes: 2}))
	w.client(w.app).get("POST", "/v1/key/create/app-1", "", nil)
	hello := clientHello(t)
	begin := time.Now()
	conns := make([]net.Conn, 50)
	for i := range conns {
		conns[i] = w.connect()
		_, err := conns[i].Write(hello) // and the rest never comes
		ok(t, err)
	}
	for range 5 {
		w.client(w.app).get("POST", "/v1/key/generate/app-1", "", nil) // with a handshake of its own
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("others needed %v", took)
	}
	for _, c := range conns {
		if !closed(c, begin.Add(8*time.Second)) {
			t.Fatal("a handshake that stopped is open after 8 s")
		}
	}
}

// clientHello returns the first flight of a TLS client.
func clientHello(t *testing.T) []byte {
	t.Helper()
	here, there := net.Pipe()
	defer there.Close()
	go func() {
		w := &world{t: t, ca: newAuthority(t, "other")}
		tls.Client(here, w.tlsConfig(nil)).Handshake() // fails, as nobody answers
		here.Close()
	}()
	header := make([]byte, 5)
	_, err := io.ReadFull(there, header)
	ok(t, err)
	body := make([]byte, int(header[3])<<8|int(header[4]))
	_, err = io.ReadFull(there, body)
	ok(t, err)
	return append(header, body...)
}

// failing is a listener that fails, as where no file descriptor is left.
type failing struct {
	net.Listener
	failures *atomic.Int64 // that are left
}

func (f failing) Accept() (net.Conn, error) {
	if f.failures.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

func TestLD13_NoFileDescriptorIsLeft(t *testing.T) {
	failures := new(atomic.Int64)
	w := newWorld(t, func(w *world) {
		w.listen = func(ln net.Listener) net.Listener { return failing{ln, failures} }
	})
	app := w.client(w.app)
	app.get("POST", "/v1/key/create/app-1", "", nil)
	failures.Store(5)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() { w.client(w.app).get("POST", "/v1/key/generate/app-1", "", nil) }) // new connections
	}
	app.get("POST", "/v1/key/generate/app-1", "", nil) // goes on meanwhile
	wg.Wait()
	m := w.client(w.admin).do("GET", "/metrics", "").body
	if !strings.Contains(m, "\nkeygate_accept_errors_total 5\n") {
		t.Error("the metrics do not count 5 failures")
	}
}

func TestStreamsAreBounded(t *testing.T) {
	w := newWorld(t, limited(gateway.LimitsConfig{Streams: 17}))
	c := w.dialHTTP2(w.app)
	for {
		f, err := c.framer.ReadFrame()
		ok(t, err)
		if s, isSettings := f.(*http2.SettingsFrame); isSettings && !s.IsAck() {
			if n, _ := s.Value(http2.SettingMaxConcurrentStreams); n != 17 {
				t.Errorf("%d streams are allowed, not 17", n)
			}
			return
		}
	}
}

// Connections that are busy for long, and have sent more, are many more than there are
// turns of their identity.
func TestAFollowerThatPipelinesHoldsNoTurn(t *testing.T) {
	w := newWorld(t)
	for range 40 {
		conn := w.dial(w.admin)
		_, err := io.WriteString(conn, "GET /v1/log/error HTTP/1.1\r\nHost: x\r\n\r\n")
		ok(t, err)
		_, err = conn.Read(make([]byte, 4096))
		ok(t, err)
		_, err = io.WriteString(conn, "GET")
		ok(t, err)
	}
	time.Sleep(300 * time.Millisecond)
	c := w.clientOf(&w.admin, false)
	c.http.Timeout = 3 * time.Second
	for i := range 3 {
		resp, err := c.http.Get(c.base + "/v1/status")
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}
