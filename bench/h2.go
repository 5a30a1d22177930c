package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// An h2 is a connection of HTTP/2 with any number of requests at a time. A
// request is one write of two frames that are rendered beforehand but for the
// number of their stream.
type h2 struct {
	conn   net.Conn
	framer *xhttp2.Framer
	ready  chan struct{} // closed when the server's settings are known

	mu     sync.Mutex // of what is below, and of writes
	out    bytes.Buffer
	w      *xhttp2.Framer // into out
	next   uint32
	limit  int // concurrent streams that the server allows
	wait   map[uint32]chan answer
	err    error
	free   *sync.Cond // a stream has ended
	window uint32     // bytes read since the last update of the connection's window
}

// bigWindow is more than the answers of a connection's streams ever are at once.
const bigWindow = 1 << 30

func newH2(c net.Conn) (*h2, error) {
	h := &h2{conn: c, next: 1, limit: 100, wait: make(map[uint32]chan answer), ready: make(chan struct{})}
	h.free = sync.NewCond(&h.mu)
	h.w = xhttp2.NewFramer(&h.out, nil)
	h.framer = xhttp2.NewFramer(nil, bufio.NewReaderSize(c, 64<<10))
	h.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.framer.SetReuseFrames()
	h.mu.Lock()
	h.out.WriteString(xhttp2.ClientPreface)
	h.w.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: bigWindow}, xhttp2.Setting{ID: xhttp2.SettingEnablePush})
	h.w.WriteWindowUpdate(0, bigWindow)
	err := h.flush()
	h.mu.Unlock()
	if err != nil {
		c.Close()
		return nil, err
	}
	go h.read()
	<-h.ready
	return h, h.failure()
}

func (h *h2) close() { h.conn.Close() }

func (h *h2) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// flush writes what is rendered. The caller holds mu.
func (h *h2) flush() error {
	_, err := h.conn.Write(h.out.Bytes())
	h.out.Reset()
	return err
}

// do sends r and waits for the answer, or, if patience is not zero, resets the
// stream when it ends. It waits for a free stream first.
func (h *h2) do(r *request, patience time.Duration) (answer, error) {
	id, done, err := h.send(r)
	if err != nil {
		return answer{}, err
	}
	var over <-chan time.Time
	if patience > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		over = t.C
	}
	select {
	case a, ok := <-done:
		if !ok {
			return answer{}, h.failure()
		}
		return a, nil
	case <-over:
		return answer{}, h.reset(id)
	}
}

func (h *h2) send(r *request) (id uint32, done chan answer, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.err == nil && len(h.wait) >= h.limit {
		h.free.Wait()
	}
	if h.err != nil {
		return 0, nil, h.err
	}
	id = h.next
	h.next += 2
	done = make(chan answer, 1)
	h.wait[id] = done
	h.w.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: r.h2, EndHeaders: true, EndStream: r.body == nil})
	if r.body != nil {
		h.w.WriteData(id, true, r.body)
	}
	return id, done, h.flush()
}

func (h *h2) reset(id uint32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return h.err
	}
	h.end(id)
	h.w.WriteRSTStream(id, xhttp2.ErrCodeCancel)
	if err := h.flush(); err != nil {
		return err
	}
	return errCancelled
}

// end forgets a stream. The caller holds mu.
func (h *h2) end(id uint32) {
	delete(h.wait, id)
	h.free.Signal()
}

// read handles frames until the connection ends, and then fails what waits.
func (h *h2) read() {
	open := make(map[uint32]answer) // those whose body is to come
	first := sync.OnceFunc(func() { close(h.ready) })
	for {
		f, err := h.framer.ReadFrame()
		if err == nil {
			err = h.frame(f, open)
		}
		if err != nil {
			h.fail(err)
			first()
			return
		}
		if s, ok := f.(*xhttp2.SettingsFrame); ok && !s.IsAck() {
			first()
		}
	}
}

func (h *h2) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
	for id, done := range h.wait {
		delete(h.wait, id)
		close(done)
	}
	h.free.Broadcast()
	h.conn.Close()
}

func (h *h2) frame(f xhttp2.Frame, open map[uint32]answer) error {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *xhttp2.MetaHeadersFrame:
		status, err := strconv.Atoi(f.PseudoValue("status"))
		if err != nil {
			return err
		}
		a := answer{status: status}
		for _, field := range f.RegularFields() {
			a.retryAfter = a.retryAfter || field.Name == "retry-after"
		}
		return h.progress(id, a, open, f.StreamEnded())
	case *xhttp2.DataFrame:
		if err := h.consumed(uint32(len(f.Data()))); err != nil {
			return err
		}
		return h.progress(id, open[id], open, f.StreamEnded())
	case *xhttp2.RSTStreamFrame:
		delete(open, id)
		h.deliver(id, answer{})
	case *xhttp2.SettingsFrame:
		return h.settings(f)
	case *xhttp2.PingFrame:
		return h.pong(f)
	case *xhttp2.GoAwayFrame:
		return fmt.Errorf("http2: the server says go away: %v %q", f.ErrCode, f.DebugData())
	}
	return nil
}

// progress takes note of a part of an answer.
func (h *h2) progress(id uint32, a answer, open map[uint32]answer, ended bool) error {
	if !ended {
		open[id] = a
		return nil
	}
	delete(open, id)
	h.deliver(id, a)
	return nil
}

func (h *h2) deliver(id uint32, a answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if done, ok := h.wait[id]; ok {
		h.end(id)
		done <- a
	}
}

func (h *h2) settings(f *xhttp2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n, ok := f.Value(xhttp2.SettingMaxConcurrentStreams); ok {
		h.limit = int(n)
	}
	if h.limit == 0 {
		return errors.New("http2: the server allows no streams")
	}
	h.w.WriteSettingsAck()
	return h.flush()
}

func (h *h2) pong(f *xhttp2.PingFrame) error {
	if f.IsAck() {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.w.WritePing(true, f.Data)
	return h.flush()
}

// consumed gives the connection's window back in large steps.
func (h *h2) consumed(n uint32) error {
	if h.window += n; h.window < bigWindow/2 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.w.WriteWindowUpdate(0, h.window)
	h.window = 0
	return h.flush()
}

// headerBlock renders a header block that changes no dynamic table. A negative
// length stands for no body.
func headerBlock(method, path string, length int) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	field := func(name, value string) {
		e.WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: true}) // never indexed
	}
	field(":method", method)
	field(":scheme", "https")
	field(":authority", "127.0.0.1")
	field(":path", path)
	if length >= 0 {
		field("content-type", "application/json")
		field("content-length", strconv.Itoa(length))
	}
	return b.Bytes()
}
