package hsm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// What a gateway and a worker process say to each other is frames, over a socket
// (AF_UNIX, SOCK_STREAM) that only the two have:
//
//	4  size of the rest, big endian
//	1  kind
//	8  number, big endian: of the op, or of the question that is asked or answered
//	n  body
//
// Both are the same program, so there are no versions.
type frame struct {
	kind frameKind
	n    uint64
	body []byte // valid until the function that got it returns
}

type frameKind uint8

const (
	// To the worker.
	frameHello    frameKind = 1 + iota // Config as JSON; the first
	frameOp                            // see op.append
	frameCancel                        // nobody waits for the op any longer; no answer is needed
	framePing                          // to be answered at once
	frameClose                         // end
	frameKnown                         // the memory to compare with, as JSON
	framePIN                           // 1 if the token has accepted it before, else 0; the PIN
	frameLoggedIn                      // an error, or nothing: what became of the login, all told

	// To the gateway.
	frameReady  // a workerStatus as JSON: ops can be sent
	frameFailed // an error: the token cannot be opened
	frameAnswer // what an op returned, with its size
	frameError  // an error: that of an op
	framePong   // a workerStatus as JSON, or nothing
	frameClosed // an error, or nothing: that of close
	frameMemory // a memory as JSON: whose is it?
	frameAskPIN // the PIN is needed for a login
	frameLogin  // an error, or nothing: that of the login
	frameLog    // a logLine as JSON
	frameKindAfter
)

const (
	frameHeader = 4 + frameFixed
	frameFixed  = 1 + 8
	// maxRequest bounds the frames to a worker: the largest is a record of 1 MiB to
	// authenticate.
	maxRequest = 2 << 20
	// maxReply bounds the frames from a worker, which is not trusted. The largest is
	// its status, with what each function answered how often.
	maxReply = 256 << 10
)

var errFrame = errors.New("hsm: a frame that is none")

// parseFrame returns the first frame in b and its size in all. The size is 0 if b has
// not all of it; need then says how many bytes there have to be. A frame of more than
// most bytes is an error.
func parseFrame(b []byte, most int) (f frame, size, need int, err error) {
	if len(b) < frameHeader {
		return f, 0, frameHeader, nil
	}
	rest := binary.BigEndian.Uint32(b)
	f.kind, f.n = frameKind(b[4]), binary.BigEndian.Uint64(b[5:])
	if rest < frameFixed || uint64(rest)+4 > uint64(most) || f.kind == 0 || f.kind >= frameKindAfter {
		return f, 0, 0, fmt.Errorf("%w: kind %d, %d bytes", errFrame, f.kind, rest)
	}
	size = 4 + int(rest)
	if len(b) < size {
		return f, 0, size, nil
	}
	f.body = b[frameHeader:size:size]
	return f, size, size, nil
}

// beginFrame appends the header of a frame, whose size endFrame fills in. at is where
// the frame begins.
func beginFrame(b []byte, kind frameKind, n uint64) (with []byte, at int) {
	at = len(b)
	b = append(b, 0, 0, 0, 0, byte(kind))
	return binary.BigEndian.AppendUint64(b, n), at
}

func endFrame(b []byte, at int) []byte {
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// appendBytes appends x, with its size. It keeps nil apart from nothing.
func appendBytes(b, x []byte) []byte {
	if x == nil {
		return append(b, 0, 0, 0, 0)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(x))+1)
	return append(b, x...)
}

// A reading takes apart what a frame holds. After a value that is not there it is bad,
// and all that follow are zero.
type reading struct {
	b   []byte
	bad bool
}

func (r *reading) take(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	x := r.b[:n:n]
	r.b = r.b[n:]
	return x
}

func (r *reading) uint8() uint8 {
	if x := r.take(1); x != nil {
		return x[0]
	}
	return 0
}

func (r *reading) uint32() uint32 {
	if x := r.take(4); x != nil {
		return binary.BigEndian.Uint32(x)
	}
	return 0
}

func (r *reading) uint64() uint64 {
	if x := r.take(8); x != nil {
		return binary.BigEndian.Uint64(x)
	}
	return 0
}

// bytes reads what appendBytes wrote, without a copy.
func (r *reading) bytes() []byte {
	n := r.uint32()
	if n == 0 {
		return nil
	}
	if uint64(n)-1 > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	return r.take(int(n - 1))
}

// end returns an error if not all was there, or more.
func (r *reading) end(what string) error {
	if r.bad || len(r.b) != 0 {
		return fmt.Errorf("%w: %s", errFrame, what)
	}
	return nil
}
