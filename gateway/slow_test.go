package gateway_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/keygate/keygate/gateway"
)

// shortTime has the routes of keys end after a time of 200 ms.
func shortTime(w *world) {
	w.state.Routes = map[string]gateway.RouteConfig{"/v1/key/generate/": {Timeout: 200 * time.Millisecond}}
}

func TestClientsThatTakeNoAnswerLoseTheirStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shortTime)
	w.client(w.admin).do("POST", "/v1/key/create/app-1", "")
	// Package http2's client grants no window unless it is told to.
	c := w.dialHTTP2(w.app)
	ok(t, c.conn.SetDeadline(time.Now().Add(20*time.Second)))
	ok(t, c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/v1/key/generate/app-1"}} {
		ok(t, enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	start := time.Now()
	ok(t, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if _, reset := frame.(*http2.RSTStreamFrame); reset {
			break
		}
		if _, data := frame.(*http2.DataFrame); data {
			t.Fatal("data came without a window")
		}
	}
	if took := time.Since(start); took < 5*time.Second || took > 8*time.Second {
		t.Errorf("the stream was reset after %v, not after 5.2 s", took)
	}
}

func TestBodiesThatDoNotComeOverHTTP2(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shortTime)
	w.client(w.admin).do("POST", "/v1/key/create/app-1", "")
	c := w.dialHTTP2(w.app)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/v1/key/generate/app-1"}} {
		ok(t, enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	start := time.Now()
	ok(t, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	for {
		frame, err := c.framer.ReadFrame()
		ok(t, err)
		if f, is := frame.(*http2.MetaHeadersFrame); is {
			if took := time.Since(start); f.PseudoValue("status") != "400" || took < 200*time.Millisecond || took > 3*time.Second {
				t.Errorf("answered %s after %v", f.PseudoValue("status"), took)
			}
			return
		}
	}
}

func TestClientsThatReadNoAnswersOverHTTP1(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shortTime)
	w.client(w.admin).do("POST", "/v1/key/create/app-1", "")
	conn := w.dial(w.app)
	ok(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	request := []byte("POST /v1/key/generate/app-1 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	start := time.Now()
	for {
		if _, err := io.Copy(conn, bytes.NewReader(bytes.Repeat(request, 1000))); err != nil {
			break // the gateway has stopped reading, and then closed
		}
	}
	if took := time.Since(start); took > 25*time.Second {
		t.Errorf("the connection lasted %v", took)
	}
}
