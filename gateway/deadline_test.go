package gateway

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

// pair returns both ends of a connection, of which the server's is swept.
func pair(t *testing.T) (server, client net.Conn, all *conns) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	all = newConns()
	all.sweep(time.Now())
	server, err = listener{ln, all}.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop) })
	go sweepInto(stop, all)
	return server, client, all
}

func sweepInto(stop <-chan struct{}, all *conns) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(sweepInterval):
			all.sweep(time.Now())
		}
	}
}

// timesOut runs do and fails unless it returns a time-out between least and most.
func timesOut(t *testing.T, what string, least, most time.Duration, do func() error) {
	t.Helper()
	start := time.Now()
	err := do()
	if took := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || took < least || took > most {
		t.Errorf("%s: %v after %v, want a time-out after %v to %v", what, err, took, least, most)
	}
}

func TestDeadlinesOfConnections(t *testing.T) {
	server, client, _ := pair(t)
	b := make([]byte, 1)
	read := func() error { _, err := server.Read(b); return err }

	server.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
	timesOut(t, "read", 150*time.Millisecond, 2*time.Second, read)
	timesOut(t, "a read after its deadline", 0, 50*time.Millisecond, read)

	server.SetReadDeadline(time.Time{})
	client.Write(b)
	if err := read(); err != nil {
		t.Errorf("a read after its deadline was taken back: %v", err)
	}

	server.SetReadDeadline(time.Now().Add(-time.Hour))
	timesOut(t, "a deadline that is over", 0, 50*time.Millisecond, read)
	server.SetReadDeadline(time.Now().Add(-time.Nanosecond))
	timesOut(t, "a deadline that has just gone by", 0, 500*time.Millisecond, read)
	server.SetDeadline(time.Now().Add(time.Hour))
	client.Write(b)
	if err := read(); err != nil {
		t.Errorf("a read long before its deadline: %v", err)
	}
	// As package http ends a read that another goroutine waits in.
	time.AfterFunc(50*time.Millisecond, func() { server.SetReadDeadline(time.Unix(1, 0)) })
	timesOut(t, "a read that is ended", 50*time.Millisecond, time.Second, read)

	server.SetWriteDeadline(time.Now().Add(150 * time.Millisecond))
	timesOut(t, "writes that nobody reads", 150*time.Millisecond, 2*time.Second, func() (err error) {
		for err == nil {
			_, err = server.Write(make([]byte, 1<<20))
		}
		return err
	})
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	server, _, all := pair(t)
	if len(all.all) != 1 {
		t.Errorf("%d connections", len(all.all))
	}
	server.Close()
	all.mu.Lock()
	defer all.mu.Unlock()
	if len(all.all) != 0 {
		t.Errorf("%d connections after the end of the only one", len(all.all))
	}
}

// A readEnder is the writer of a stream whose reads end.
type readEnder struct {
	http.ResponseWriter
	ended int
}

func (r *readEnder) SetReadDeadline(time.Time) error { r.ended++; return nil }

func TestReadsOfStreamsEndWithTheirTime(t *testing.T) {
	end := time.Now()
	var l timedReads
	reads := make([]*timedRead, 3)
	for i := range reads {
		reads[i] = &timedRead{writer: new(readEnder), end: end.Add(time.Duration(i) * time.Second)}
		l.add(reads[i])
	}
	ended := func(want ...int) {
		t.Helper()
		for i, r := range reads {
			if got := r.writer.(*readEnder).ended; got != want[i] {
				t.Errorf("read %d was ended %d times, not %d", i, got, want[i])
			}
		}
	}
	l.sweep(end.Add(-1))
	ended(0, 0, 0)
	l.sweep(end)
	ended(1, 0, 0)
	l.remove(reads[1])
	l.sweep(end.Add(time.Hour))
	ended(2, 0, 1)
	l.remove(reads[0])
	l.remove(reads[2])
	l.sweep(end.Add(time.Hour))
	ended(2, 0, 1)
	if l.first != nil || l.some.Load() {
		t.Error("reads that have ended are kept")
	}
}

func TestAcceptErrorsAreReturned(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if _, err := (listener{ln, newConns()}).Accept(); !errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		t.Errorf("error is %v", err)
	}
}

// Deadlines are on a clock that nobody sets.
func TestTimesOfConnections(t *testing.T) {
	c := newConns()
	now := time.Now()
	if got := c.time(time.Time{}); got != 0 {
		t.Errorf("no time is %d", got)
	}
	for _, past := range []time.Time{time.Unix(1, 0), c.began, c.began.Add(-time.Hour)} {
		if got := c.time(past); got != 1 {
			t.Errorf("%v is %d", past, got)
		}
	}
	if got, want := c.time(now.Add(time.Hour)), int64(now.Add(time.Hour).Sub(c.began)); got != want {
		t.Errorf("in an hour is %d, not %d", got, want)
	}
}
