package gateway

import (
	"encoding/base64"
	"net/http"
	"strconv"

	"github.com/keygate/keygate/api"
	"github.com/keygate/keygate/kms"
)

// listBuffer is how many bytes of a list are encoded before they are written.
const listBuffer = 32 << 10

// A listWriter writes a JSON list of secrets, of which it holds a buffer's worth
// at a time. Its length is told before, so that a client that got less knows it
// and one that got all has it in one piece of memory.
type listWriter struct {
	w     http.ResponseWriter
	buf   []byte
	total int
	items int
	sent  int
}

func newListWriter(w http.ResponseWriter) *listWriter { return &listWriter{w: w, total: len("[]\n")} }

// count adds an element of n bytes to what begin says of the list.
func (l *listWriter) count(n int) {
	if l.items++; l.items > 1 {
		l.total++ // a comma
	}
	l.total += n
}

func (l *listWriter) begin() {
	h := l.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(l.total))
	l.w.WriteHeader(http.StatusOK)
	l.buf = append(make([]byte, 0, listBuffer), '[')
}

// next makes room for an element of n bytes, which the caller appends to buf. It
// reports false if the client is gone.
func (l *listWriter) next(n int) bool {
	if l.sent > 0 {
		l.buf = append(l.buf, ',')
	}
	l.sent++
	if len(l.buf)+n+len(",]\n") <= cap(l.buf) {
		return true
	}
	err := l.flush()
	if n+len(",]\n") > cap(l.buf) { // a plaintext of nearly the size of a body
		l.buf = make([]byte, 0, n+len(",]\n"))
	}
	return err == nil
}

func (l *listWriter) flush() error {
	_, err := l.w.Write(l.buf)
	clear(l.buf)
	l.buf = l.buf[:0]
	return err
}

// end ends the list if all of it was written, and wipes the buffer.
func (l *listWriter) end() {
	if l.sent == l.items {
		l.buf = append(l.buf, "]\n"...)
		l.flush() // the client may be gone: the audit log has the outcome
	}
	clear(l.buf[:cap(l.buf)])
}

// dataKeyLen returns the length of what api.AppendDataKey appends for a plaintext,
// if it is not 0, and a ciphertext of those bytes.
func dataKeyLen(plaintext, ciphertext int) int {
	n := len(`{"ciphertext":""}`) + base64.StdEncoding.EncodedLen(ciphertext)
	if plaintext > 0 {
		n += len(`"plaintext":"",`) + base64.StdEncoding.EncodedLen(plaintext)
	}
	return n
}

// openedLen returns the length of what api.AppendOpened appends.
func openedLen(o kms.Opened) int {
	if o.Err != nil {
		return len(api.AppendOpened(nil, o))
	}
	return len(`{"plaintext":""}`) + base64.StdEncoding.EncodedLen(len(o.Plaintext))
}
