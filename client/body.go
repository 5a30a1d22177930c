package client

import (
	"io"
	"net/http"
	"sync"
)

// A body is the JSON document of a request, which may hold a key or a
// plaintext. The transport may still read it when the answer is there already
// (http.RoundTripper), so wiping and reading exclude each other.
type body struct {
	mu    sync.Mutex
	bytes []byte
}

// attach makes b the body of req. It can be sent more than once.
func (b *body) attach(req *http.Request) {
	req.Header.Set("Content-Type", "application/json")
	req.ContentLength = int64(len(b.bytes))
	req.GetBody = func() (io.ReadCloser, error) { return &bodyReader{b: b}, nil }
	req.Body, _ = req.GetBody()
}

// wipe overwrites the document. Readers find its end.
func (b *body) wipe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.bytes)
	b.bytes = nil
}

type bodyReader struct {
	b   *body
	off int
}

func (r *bodyReader) Read(p []byte) (int, error) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.off >= len(r.b.bytes) {
		return 0, io.EOF
	}
	n := copy(p, r.b.bytes[r.off:])
	r.off += n
	return n, nil
}

func (r *bodyReader) Close() error { return nil }
