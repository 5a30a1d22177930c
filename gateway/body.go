package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"

	"github.com/keygate/keygate/api"
)

// decode reads the request's body as KES does: one JSON document, of which
// unknown fields, and after which all else, are ignored. Whatever the
// Content-Type says, and with or without Content-Length. It returns api.ErrBody.
func (r *request) decode(into any) error {
	if err := r.read(); err != nil {
		return err
	}
	if simple, ok := into.(interface{ DecodeSimple([]byte) bool }); ok && simple.DecodeSimple(r.body) {
		return nil
	}
	err := json.Unmarshal(r.body, into)
	if _, ok := errors.AsType[*json.SyntaxError](err); ok {
		// Perhaps it is what comes after the document.
		err = json.NewDecoder(bytes.NewReader(r.body)).Decode(into)
	}
	if err != nil {
		return api.ErrBody
	}
	return nil
}

// decodeOptional is decode for a body that may be empty.
func (r *request) decodeOptional(into any) error {
	if err := r.read(); err != nil || len(r.body) == 0 {
		return err
	}
	return r.decode(into)
}

// read reads the body, once. The route's limit holds for it, whatever its
// Content-Length says. It returns api.ErrBody, or api.ErrOverload if there is no room.
func (r *request) read() (err error) {
	if r.body != nil {
		return nil
	}
	if r.http.ContentLength > r.route.maxBody {
		return api.ErrBody
	}
	r.timeReads(func() { r.body, err = readAll(r.http.Body, r.http.ContentLength, r.route.maxBody, r.hold) })
	if errors.Is(err, api.ErrOverload) {
		return err
	}
	if err != nil {
		return api.ErrBody
	}
	return nil
}

// timeReads runs read, which reads the body, with an end of its reads.
func (r *request) timeReads(read func()) {
	if end, timed := r.ctx.Deadline(); timed && r.http.ProtoMajor >= 2 && r.http.ContentLength != 0 {
		timed := &timedRead{writer: r.writer, end: end}
		r.conn.reads.add(timed)
		defer r.conn.reads.remove(timed)
	}
	read()
}

// readAll reads at most limit bytes to the end of body, of which hint are
// expected, if it is not negative. It leaves no other copy of them behind. It asks
// hold before it has room for so many, and returns api.ErrOverload if it may not.
func readAll(body io.Reader, hint, limit int64, hold func(size int64) bool) ([]byte, error) {
	size := hint + 1 // so that its end is seen without another byte's room
	if hint < 0 {
		size = 512
	}
	if !hold(size) {
		return nil, api.ErrOverload
	}
	b := make([]byte, 0, size)
	for {
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF && int64(len(b)) <= limit {
			return b, nil
		}
		if err == nil && int64(len(b)) > limit {
			err = io.ErrShortBuffer
		}
		if err != nil {
			clear(b)
			return nil, err
		}
		if len(b) == cap(b) {
			if !hold(2 * int64(cap(b))) {
				clear(b)
				return nil, api.ErrOverload
			}
			b = grow(b)
		}
	}
}

func grow(b []byte) []byte {
	next := make([]byte, len(b), 2*cap(b))
	copy(next, b)
	clear(b)
	return next
}
