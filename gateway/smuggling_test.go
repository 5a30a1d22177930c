package gateway_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// exchange sends bytes on a connection of the app's. It returns the statuses of
// the answers, the last one, and whether the server closed the connection.
func (w *world) exchange(t *testing.T, request string) (statuses []int, last *http.Response, closed bool) {
	t.Helper()
	conn := w.dial(w.app)
	_, err := io.WriteString(conn, request)
	ok(t, err)
	ok(t, conn.SetReadDeadline(time.Now().Add(3*time.Second)))
	r := bufio.NewReader(conn)
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses, last, !strings.Contains(err.Error(), "timeout")
		}
		_, err = io.Copy(io.Discard, resp.Body)
		ok(t, err)
		statuses, last = append(statuses, resp.StatusCode), resp
	}
}

const (
	post = "POST /v1/key/generate/app-1 HTTP/1.1\r\nHost: x\r\n"
	// smuggled is sent behind each hostile form: it is a request if, and only if, the
	// form ended where it begins. The server closes the connection after it.
	smuggled = "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
)

func TestBI10_WhatIsNoHTTPIsRefusedAndEndsTheConnection(t *testing.T) {
	w := newWorld(t)
	w.client(w.app).get("POST", "/v1/key/create/app-1", "", nil)
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"two Content-Lengths":          {post + "Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}", 400},
		"list of Content-Lengths":      {post + "Content-Length: 2, 40\r\n\r\n{}", 400},
		"signed Content-Length":        {post + "Content-Length: +2\r\n\r\n{}", 400},
		"negative Content-Length":      {post + "Content-Length: -2\r\n\r\n{}", 400},
		"hexadecimal Content-Length":   {post + "Content-Length: 0x2\r\n\r\n{}", 400},
		"space before the colon":       {post + "Content-Length : 2\r\n\r\n{}", 400},
		"space before TE's colon":      {post + "Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400},
		"two Transfer-Encodings":       {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 501},
		"unknown Transfer-Encoding":    {post + "Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 501},
		"vertical tab in TE":           {post + "Transfer-Encoding: \x0bchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400},
		"bare CR in a header":          {post + "A: b\rTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", 400},
		"NUL in a header":              {post + "A: b\x00c\r\nContent-Length: 2\r\n\r\n{}", 400},
		"NUL in a header's name":       {post + "A\x00: b\r\nContent-Length: 2\r\n\r\n{}", 400},
		"no host":                      {"POST /v1/key/generate/app-1 HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400},
		"two hosts":                    {post + "Host: y\r\nContent-Length: 2\r\n\r\n{}", 400},
		"header without a colon":       {post + "Content-Length: 2\r\nnonsense\r\n\r\n{}", 400},
		"first header begins by space": {"POST /v1/key/generate/app-1 HTTP/1.1\r\n Host: x\r\nContent-Length: 2\r\n\r\n{}", 400},
		"unknown version":              {"POST /v1/key/generate/app-1 HTTP/9.9\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 505},
	} {
		t.Run("BI-10 "+name, func(t *testing.T) {
			before := len(w.entries())
			statuses, last, closed := w.exchange(t, test.request+smuggled)
			if !slices.Equal(statuses, []int{test.status}) || !closed || !last.Close {
				t.Errorf("answered %v, closed %v", statuses, closed)
			}
			if entries := w.entries()[before:]; len(entries) != 0 {
				t.Errorf("it reached the door: %v", entries)
			}
		})
	}
}

// What net/http takes, though RFC 9112 lets a server refuse it, is read in one
// way: what comes behind it is a request of the same client, with its own
// authorization and audit entry, or the connection is closed.
func TestBI10_WhatIsTakenIsReadInOneWay(t *testing.T) {
	w := newWorld(t)
	w.client(w.app).get("POST", "/v1/key/create/app-1", "", nil)
	const generate, status = "key:generate 200", "status 200"
	both := []string{generate, status}
	for name, test := range map[string]struct {
		request string
		want    []string // the operations and their statuses
	}{
		"nothing hostile":           {post + "Content-Length: 2\r\n\r\n{}", both},
		"chunks":                    {post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", both},
		"chunks and a length":       {post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", both},
		"a length and chunks":       {post + "Transfer-Encoding: chunked\r\nContent-Length: 100\r\n\r\n2\r\n{}\r\n0\r\n\r\n", both},
		"a request in the body":     {post + fmt.Sprintf("Content-Length: %d\r\n\r\n{}%s", 2+len(smuggled), smuggled), both},
		"a request in a chunk":      {post + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n{}%s\r\n0\r\n\r\n", 2+len(smuggled), smuggled), both},
		"a chunk extension":         {post + "Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0;c\r\n\r\n", both},
		"trailers":                  {post + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 40\r\n\r\n", both},
		"a folded header":           {post + "A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}", both},
		"a folded length":           {post + "A: b\r\n Content-Length: 40\r\nContent-Length: 2\r\n\r\n{}", both},
		"a header that ends by LF":  {post + "A: b\nContent-Length: 2\r\n\r\n{}", both},
		"headers that end by LF":    {post + "Content-Length: 2\n\n{}", both},
		"a chunk that ends by LF":   {post + "Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n", []string{"key:generate 400"}},
		"an extension with LF":      {post + "Transfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n", []string{"key:generate 400"}},
		"a chunk longer than it is": {post + "Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n", []string{"key:generate 400"}},
		"a signed chunk":            {post + "Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n", []string{"key:generate 400"}},
	} {
		t.Run("BI-10 "+name, func(t *testing.T) {
			before := len(w.entries())
			statuses, _, closed := w.exchange(t, test.request+smuggled)
			var seen []string
			for i, e := range w.entries()[before:] {
				seen = append(seen, fmt.Sprint(e["operation"], " ", e["status"]))
				if e["identity"] != string(w.appID) || i < len(statuses) && e["status"] != float64(statuses[i]) {
					t.Errorf("audit entry %v is of another", e)
				}
			}
			if !slices.Equal(seen, test.want) || len(statuses) != len(test.want) || !closed {
				t.Errorf("%v were seen, and answered %v; closed %v", seen, statuses, closed)
			}
		})
	}
}
