package admission_test

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/keygate/keygate/admission"
)

// listen returns a listener on the loopback address, and what it accepts.
func listen(t *testing.T, total, source int) (*admission.Listener, <-chan net.Conn) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := admission.NewListener(inner, total, source)
	accepted := make(chan net.Conn, 100)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	t.Cleanup(func() { ln.Close() })
	return ln, accepted
}

// dial connects from an address of 127.0.0.0/8.
func dial(t *testing.T, ln net.Listener, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", ln.Addr().String())
	if errors.Is(err, syscall.ECONNRESET) {
		return nil // closed before it was seen to be open
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func closedAtOnce(t *testing.T, c net.Conn) {
	t.Helper()
	if c == nil {
		return
	}
	c.SetReadDeadline(time.Now().Add(3 * time.Second))
	_, err := c.Read(make([]byte, 1))
	if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection is not closed: %v", err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	ln, accepted := listen(t, 3, 2)
	dial(t, ln, "127.0.0.1")
	dial(t, ln, "127.0.0.1")
	first := <-accepted
	<-accepted
	closedAtOnce(t, dial(t, ln, "127.0.0.1")) // its third
	dial(t, ln, "127.0.0.2")
	<-accepted
	closedAtOnce(t, dial(t, ln, "127.0.0.3")) // the fourth of all
	if open, full, crowded, _ := ln.Counts(); open != 3 || full != 1 || crowded != 1 {
		t.Errorf("%d open, %d and %d closed", open, full, crowded)
	}
	first.Close()
	first.Close() // is counted once
	dial(t, ln, "127.0.0.1")
	(<-accepted).Close()
	if open, _, _, _ := ln.Counts(); open != 2 {
		t.Errorf("%d open", open)
	}
}

// A fake is a listener whose connections come from addresses that this machine
// does not have.
type fake struct {
	net.Listener
	from []string
}

func (f *fake) Accept() (net.Conn, error) {
	if len(f.from) == 0 {
		return nil, io.EOF
	}
	addr := &net.TCPAddr{IP: net.ParseIP(f.from[0])}
	f.from = f.from[1:]
	c, _ := net.Pipe()
	return from{c, addr}, nil
}

type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

func TestANetworkOfIPv6IsOneSource(t *testing.T) {
	ln := admission.NewListener(&fake{from: []string{"2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"}}, 100, 1)
	var accepted []string
	for {
		c, err := ln.Accept()
		if err != nil {
			break
		}
		accepted = append(accepted, c.RemoteAddr().(*net.TCPAddr).IP.String())
	}
	if len(accepted) != 3 || accepted[1] != "2001:db8:0:1::1" || accepted[2] != "192.0.2.1" {
		t.Errorf("accepted from %v", accepted)
	}
}
