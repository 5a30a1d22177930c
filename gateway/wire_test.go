package gateway_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A rawHTTP2 is a client that can break the rules of HTTP/2.
type rawHTTP2 struct {
	conn   *tls.Conn
	framer *http2.Framer
}

func (w *world) dialHTTP2(certificate tls.Certificate) *rawHTTP2 {
	w.t.Helper()
	cfg := w.tlsConfig(&certificate)
	cfg.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", w.addr, cfg)
	ok(w.t, err)
	w.t.Cleanup(func() { conn.Close() })
	ok(w.t, conn.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	ok(w.t, err)
	c := &rawHTTP2{conn, http2.NewFramer(conn, conn)}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	ok(w.t, c.framer.WriteSettings())
	return c
}

// request sends headers on the first stream and returns the status of the
// answer, "reset" or "closed".
func (c *rawHTTP2) request(t *testing.T, headers [][2]string) string {
	t.Helper()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range headers {
		ok(t, enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
	}
	ok(t, c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "closed"
		}
	}
}

func TestBI09_MalformedHTTP2ReachesNoHandler(t *testing.T) {
	w := newWorld(t)
	good := [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/version"}}
	if status := w.dialHTTP2(w.admin).request(t, good); status != "200" {
		t.Fatalf("a good request is answered %s", status)
	}
	const (
		refused = "refused" // by net/http: nothing of ours sees it
		unknown = "501"     // audited as what is no operation
	)
	for name, test := range map[string]struct {
		headers [][2]string
		want    string
	}{
		"path without a slash":     {[][2]string{good[0], good[1], good[2], {":path", "version"}}, refused},
		"empty path":               {[][2]string{good[0], good[1], good[2], {":path", ""}}, refused},
		"no path":                  {[][2]string{good[0], good[1], good[2]}, refused},
		"two paths":                {[][2]string{good[0], good[1], good[2], good[3], {":path", "/v1/status"}}, refused},
		"two methods":              {[][2]string{good[0], {":method", "PUT"}, good[1], good[2], good[3]}, refused},
		"unknown pseudo header":    {[][2]string{good[0], good[1], good[2], good[3], {":x", "y"}}, refused},
		"pseudo header late":       {[][2]string{good[0], good[1], good[2], {"a", "b"}, good[3]}, refused},
		"upper case header":        {[][2]string{good[0], good[1], good[2], good[3], {"A", "b"}}, refused},
		"NUL in a header":          {[][2]string{good[0], good[1], good[2], good[3], {"a", "b\x00"}}, refused},
		"line break in header":     {[][2]string{good[0], good[1], good[2], good[3], {"a", "b\r\nc: d"}}, refused},
		"connection header":        {[][2]string{good[0], good[1], good[2], good[3], {"connection", "close"}}, refused},
		"transfer encoding":        {[][2]string{good[0], good[1], good[2], good[3], {"transfer-encoding", "chunked"}}, refused},
		"absolute form":            {[][2]string{good[0], good[1], good[2], {":path", "https://x/version"}}, unknown},
		"path of two slashes":      {[][2]string{good[0], good[1], good[2], {":path", "//version"}}, unknown},
		"authority is not host":    {[][2]string{good[0], good[1], good[2], good[3], {"host", "other"}}, unknown},
		"authority is not hosts":   {[][2]string{good[0], good[1], good[2], good[3], {"host", "x"}, {"host", "other"}}, unknown},
		"two hosts, no authority":  {[][2]string{good[0], good[1], good[3], {"host", "x"}, {"host", "other"}}, unknown},
		"authority is host":        {[][2]string{good[0], good[1], good[2], good[3], {"host", "X"}}, "200"},
		"a host, and no authority": {[][2]string{good[0], good[1], good[3], {"host", "x"}}, "200"},
	} {
		t.Run("BI-09 "+name, func(t *testing.T) {
			before := len(w.entries())
			status := w.dialHTTP2(w.admin).request(t, test.headers)
			after := w.entries()[before:]
			switch {
			case test.want == refused:
				if len(after) != 0 || status != "400" && status != "reset" && status != "closed" {
					t.Errorf("answered %s, audit entries %v", status, after)
				}
			case status != test.want || len(after) != 1:
				t.Errorf("answered %s, audit entries %v", status, after)
			case (after[0]["operation"] == "version") != (test.want == "200") || test.want == unknown && after[0]["operation"] != nil && after[0]["operation"] != "":
				t.Errorf("it was taken for %v", after[0])
			}
		})
	}
}

// exchange sends bytes and returns all that comes until the server closes, or
// until it is silent.
func (w *world) exchange(t *testing.T, request string) string {
	t.Helper()
	conn := w.dial(w.app)
	_, err := io.WriteString(conn, request)
	ok(t, err)
	ok(t, conn.SetReadDeadline(time.Now().Add(500*time.Millisecond)))
	b, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "timeout") && !strings.Contains(err.Error(), "reset") {
		t.Fatal(err)
	}
	return string(b)
}

func TestBI10_NoRequestIsSmuggled(t *testing.T) {
	w := newWorld(t)
	const (
		post     = "POST /v1/key/generate/app-1 HTTP/1.1\r\nHost: x\r\n"
		smuggled = "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"
	)
	w.client(w.app).get("POST", "/v1/key/create/app-1", "", nil)
	for name, request := range map[string]string{
		"two Content-Lengths":          post + "Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}" + smuggled,
		"list of Content-Lengths":      post + "Content-Length: 2, 40\r\n\r\n{}" + smuggled,
		"signed Content-Length":        post + "Content-Length: +2\r\n\r\n{}" + smuggled,
		"negative Content-Length":      post + "Content-Length: -2\r\n\r\n{}" + smuggled,
		"hexadecimal Content-Length":   post + "Content-Length: 0x2\r\n\r\n{}" + smuggled,
		"space before the colon":       post + "Content-Length : 2\r\n\r\n{}" + smuggled,
		"space before TE's colon":      post + "Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled,
		"two Transfer-Encodings":       post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled,
		"unknown Transfer-Encoding":    post + "Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled,
		"vertical tab in TE":           post + "Transfer-Encoding: \x0bchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled,
		"bare CR in a header":          post + "A: b\rTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}" + smuggled,
		"NUL in a header":              post + "A: b\x00c\r\nContent-Length: 2\r\n\r\n{}" + smuggled,
		"NUL in a header's name":       post + "A\x00: b\r\nContent-Length: 2\r\n\r\n{}" + smuggled,
		"no host":                      "POST /v1/key/generate/app-1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}" + smuggled,
		"two hosts":                    post + "Host: y\r\nContent-Length: 2\r\n\r\n{}" + smuggled,
		"header without a colon":       post + "Content-Length: 2\r\nnonsense\r\n\r\n{}" + smuggled,
		"first header begins by space": "POST /v1/key/generate/app-1 HTTP/1.1\r\n Host: x\r\nContent-Length: 2\r\n\r\n{}" + smuggled,
		"unknown version":              "POST /v1/key/generate/app-1 HTTP/9.9\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" + smuggled,
	} {
		t.Run("BI-10 "+name, func(t *testing.T) {
			before := len(w.entries())
			got := w.exchange(t, request)
			if strings.Contains(got, "HTTP/1.1 200") || strings.Count(got, "HTTP/1.1 ") > 1 || !strings.Contains(got, "Connection: close") {
				t.Errorf("answered %q", got)
			}
			if n := len(w.entries()) - before; n != 0 {
				t.Errorf("%d requests reached the door", n)
			}
		})
	}
	// What HTTP/1.1 leaves to the recipient is read in one way: chunks go before
	// a length (RFC 9112, 6.3), and what comes after the body is a request of
	// the same client, with its own authorization and audit entry.
	for name, test := range map[string]struct {
		request  string
		requests int
	}{
		"chunks and a length":        {post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 1},
		"a request in the body":      {post + "Content-Length: 38\r\n\r\n" + smuggled, 1},
		"a chunk extension":          {post + "Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n", 1},
		"two requests one by one":    {post + "Content-Length: 2\r\n\r\n{}" + smuggled, 2},
		"a chunk that ends by LF":    {post + "Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n", 1},
		"a folded header's own body": {post + "A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}", 1},
	} {
		t.Run("BI-10 "+name, func(t *testing.T) {
			before := len(w.entries())
			got := w.exchange(t, test.request)
			if n := len(w.entries()) - before; n > test.requests || strings.Count(got, "HTTP/1.1 ") > test.requests {
				t.Errorf("%d requests were seen in %q, answered %q", n, test.request, got)
			}
		})
	}
}
