package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// An h1 is a connection of HTTP/1.1. Answers are parsed by hand.
type h1 struct {
	conn net.Conn
	r    *bufio.Reader
	keep bool // answers hold their bodies
}

func newH1(c net.Conn) *h1 { return &h1{conn: c, r: bufio.NewReaderSize(c, 16<<10)} }

func (c *h1) close() { c.conn.Close() }

// do sends r and reads the answer. A cancelled request ends the connection,
// which is the only way to cancel one in HTTP/1.1.
func (c *h1) do(r *request, patience time.Duration) (answer, error) {
	if patience > 0 {
		c.conn.SetDeadline(time.Now().Add(patience))
	}
	if _, err := c.conn.Write(r.h1); err != nil {
		return answer{}, err
	}
	return c.read()
}

func (c *h1) read() (answer, error) {
	var a answer
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return a, err
	}
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return a, fmt.Errorf("status line %q", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, fmt.Errorf("status line %q", line)
	}
	length, err := c.header(&a)
	switch {
	case err != nil:
		return a, err
	case length < 0:
		return a, c.chunks(&a)
	}
	return a, c.take(&a, length)
}

// header reads the header fields and returns the length of the body; negative:
// it comes in chunks.
func (c *h1) header(a *answer) (length int, err error) {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return length, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return 0, fmt.Errorf("content length %q", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			length = -1
		case bytes.EqualFold(name, []byte("Retry-After")):
			a.retryAfter = true
		}
	}
}

// take reads n bytes of the body.
func (c *h1) take(a *answer, n int) error {
	if !c.keep {
		_, err := c.r.Discard(n)
		return err
	}
	start := len(a.body)
	a.body = append(a.body, make([]byte, n)...)
	_, err := io.ReadFull(c.r, a.body[start:])
	return err
}

// chunks reads a body in chunks (RFC 9112, 7.1), without trailers.
func (c *h1) chunks(a *answer) error {
	for {
		line, err := c.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseUint(string(bytes.TrimRight(line, "\r\n")), 16, 31)
		if err != nil {
			return fmt.Errorf("chunk size %q", line)
		}
		if err := c.take(a, int(n)); err != nil {
			return err
		}
		end := make([]byte, 2)
		if _, err := io.ReadFull(c.r, end); err != nil {
			return err
		}
		if string(end) != "\r\n" {
			return errors.New("a chunk without an end")
		}
		if n == 0 {
			return nil
		}
	}
}
