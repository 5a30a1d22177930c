package hsm

import (
	"encoding/json"
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A pipe is one end of the socket between a gateway and a worker. Who sends a frame
// writes it, which saves a change of goroutines, unless a write runs: what is sent
// meanwhile goes out with the next one.
type pipe struct {
	conn io.ReadWriteCloser
	raw  syscall.RawConn // of conn; nil: it has none
	most int             // bytes in a frame that is read

	wake chan struct{} // has room for one: there is something to write
	quit chan struct{}

	mu      sync.Mutex
	out     []byte // to write next
	spare   []byte // wiped, to be out the next time
	writing bool
	closed  bool
}

const (
	// readSize is the buffer that frames are read into.
	readSize = 64 << 10
	// maxOut bounds what waits to be written: a worker that reads nothing is killed
	// before that (see process.watch), but for a moment's flood.
	maxOut = 16 << 20
	// keepOut is how much memory is kept for what is written next.
	keepOut = 256 << 10
)

func newPipe(conn io.ReadWriteCloser, most int) *pipe {
	p := &pipe{conn: conn, most: most, wake: make(chan struct{}, 1), quit: make(chan struct{})}
	if c, ok := conn.(syscall.Conn); ok {
		p.raw, _ = c.SyscallConn() // without it, write writes all
	}
	return p
}

// begin begins a frame with a body of at most room bytes. The caller appends the body,
// and calls end, if there is no error.
func (p *pipe) begin(kind frameKind, n uint64, room int) (b []byte, at int, err error) {
	p.mu.Lock()
	if p.closed || len(p.out)+frameHeader+room > maxOut {
		defer p.mu.Unlock()
		if p.closed {
			return nil, 0, errCrashed
		}
		return nil, 0, errQueueFull
	}
	p.out = grown(p.out, frameHeader+room)
	b, at = beginFrame(p.out, kind, n)
	return b, at, nil
}

// end ends the frame. It never waits for the other side.
func (p *pipe) end(b []byte, at int) {
	p.out = endFrame(b, at)
	if p.raw == nil || p.writing {
		p.mu.Unlock()
		p.awake()
		return
	}
	mine := p.takeLocked()
	p.mu.Unlock()
	n := p.writeSome(mine)
	p.mu.Lock()
	if n < len(mine) { // the rest goes first, or shows write what is wrong
		rest := grown(nil, len(mine)-n+len(p.out))
		rest = append(append(rest, mine[n:]...), p.out...)
		clear(p.out)
		p.out = rest
	}
	more := p.putLocked(mine)
	p.mu.Unlock()
	if more {
		p.awake()
	}
}

func (p *pipe) awake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// takeLocked begins a write of what it returns.
func (p *pipe) takeLocked() []byte {
	b := p.out
	p.out, p.spare, p.writing = p.spare[:0], nil, true
	return b
}

// putLocked ends the write of b, and reports whether there is more.
func (p *pipe) putLocked(b []byte) bool {
	clear(b)
	if cap(b) <= keepOut {
		p.spare = b
	}
	p.writing = false
	if p.closed {
		clear(p.out)
		p.out = nil
	}
	return len(p.out) > 0
}

// writeSome writes as much of b as the socket has room for.
func (p *pipe) writeSome(b []byte) (n int) {
	err := p.raw.Write(func(fd uintptr) bool {
		n, _ = unix.Write(int(fd), b)
		return true
	})
	if err != nil {
		return 0
	}
	return max(n, 0)
}

// grown returns b with room for so many bytes more. What it copies it wipes.
func grown(b []byte, room int) []byte {
	if cap(b)-len(b) >= room {
		return b
	}
	more := make([]byte, len(b), max(2*cap(b), len(b)+room, 4<<10))
	copy(more, b)
	clear(b)
	return more
}

// send sends a frame. An error says that the pipe is closed, or full.
func (p *pipe) send(kind frameKind, n uint64, body []byte) error {
	b, at, err := p.begin(kind, n, len(body))
	if err != nil {
		return err
	}
	p.end(append(b, body...), at)
	return nil
}

func (p *pipe) sendError(kind frameKind, n uint64, err error) error {
	return p.send(kind, n, appendError(nil, err))
}

func (p *pipe) sendJSON(kind frameKind, n uint64, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return p.send(kind, n, body)
}

// write writes what those who sent it did not, until the pipe is closed.
func (p *pipe) write() error {
	for {
		select {
		case <-p.quit:
			return nil
		case <-p.wake:
		}
		for more := true; more; {
			p.mu.Lock()
			if p.writing || len(p.out) == 0 { // who writes now wakes this if there is more
				p.mu.Unlock()
				break
			}
			b := p.takeLocked()
			p.mu.Unlock()
			_, err := p.conn.Write(b)
			p.mu.Lock()
			more = p.putLocked(b)
			p.mu.Unlock()
			if err != nil {
				return err
			}
		}
	}
}

// read calls handle for each frame until that or the pipe ends, and returns why.
func (p *pipe) read(handle func(frame) error) error {
	buf, have := make([]byte, readSize), 0
	defer func() { clear(buf) }()
	for {
		n, err := p.conn.Read(buf[have:])
		if err != nil {
			return err
		}
		have += n
		done, need, err := p.frames(buf[:have], handle)
		if err != nil {
			return err
		}
		left := copy(buf, buf[done:have])
		clear(buf[left:have])
		have = left
		switch {
		case need > len(buf):
			buf = grown(buf[:have], need-have)
			buf = buf[:cap(buf)]
		case have == 0 && len(buf) > readSize:
			buf = make([]byte, readSize)
		}
	}
}

// frames calls handle for each whole frame in b. It returns the bytes that these have,
// and how many the next one needs.
func (p *pipe) frames(b []byte, handle func(frame) error) (done, need int, err error) {
	for {
		f, size, need, err := parseFrame(b[done:], p.most)
		if err != nil || size == 0 {
			return done, need, err
		}
		done += size
		if err := handle(f); err != nil {
			return done, 0, err
		}
	}
}

// close ends read and write. What was not written is wiped.
func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	clear(p.out)
	p.out = nil
	close(p.quit)
	p.conn.Close()
}
