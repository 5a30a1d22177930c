package gateway_test

import (
	"bytes"
	"crypto/tls"
	"io"
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
