package hsm

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sockets returns the two ends of a socket.
func sockets(t *testing.T) (ends [2]net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
	}
	return ends
}

// pipes returns the two ends of a pipe, the frames of which go to handle.
func pipes(t *testing.T, most int, handle func(frame) error) (out, in *pipe, ended chan error) {
	t.Helper()
	ends := sockets(t)
	a, b := ends[0], ends[1]
	out, in = newPipe(a, most), newPipe(b, most)
	ended = make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { _ = out.write() })
	wg.Go(func() { ended <- in.read(handle) })
	t.Cleanup(func() {
		out.close()
		in.close()
		wg.Wait()
	})
	return out, in, ended
}

func TestFramesOfAllSizesGoThrough(t *testing.T) {
	got := make(chan []byte, 16)
	out, _, _ := pipes(t, maxRequest, func(f frame) error {
		got <- bytes.Clone(f.body)
		return nil
	})
	for _, size := range []int{0, 1, 100, readSize - frameHeader - 1, readSize - frameHeader, readSize, 3 * readSize, 1 << 20, maxRequest - frameHeader, 5} {
		body := make([]byte, size)
		rand.Read(body)
		if err := out.send(frameOp, uint64(size), body); err != nil {
			t.Fatal(err)
		}
		select {
		case b := <-got:
			if !bytes.Equal(b, body) {
				t.Errorf("a body of %d bytes came as another one, of %d", size, len(b))
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("a body of %d bytes does not come", size)
		}
	}
}

func TestAFrameThatIsTooLongEndsThePipe(t *testing.T) {
	out, _, ended := pipes(t, maxReply, func(frame) error { return nil })
	if err := out.send(frameOp, 0, make([]byte, maxReply)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errFrame) {
		t.Errorf("error is %v", err)
	}
}

// Frames of many senders that the other side reads slowly come whole, and those of
// each sender in order.
func TestFramesOfManySendersComeWhole(t *testing.T) {
	const senders, each = 8, 400
	var last [senders]uint64
	done := make(chan struct{})
	total := 0
	out, _, _ := pipes(t, maxRequest, func(f frame) error {
		who := f.n % senders
		if f.n/senders != last[who] || len(f.body) != int(f.n%3000) || len(f.body) > 0 && f.body[0] != byte(f.n) {
			t.Errorf("frame %d of %d bytes came after %d of its sender", f.n/senders, len(f.body), last[who])
		}
		last[who]++
		if total++; total == senders*each {
			close(done)
		}
		if total%100 == 0 {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	for who := range uint64(senders) {
		go func() {
			for i := range uint64(each) {
				n := i*senders + who
				if err := out.send(frameOp, n, bytes.Repeat([]byte{byte(n)}, int(n%3000))); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("they do not all come")
	}
}

// What nobody reads does not fill the memory.
func TestAPipeHoldsSoMuch(t *testing.T) {
	ends := sockets(t)
	defer ends[1].Close()
	p := newPipe(ends[0], maxReply)
	defer p.close()
	sent := 0
	for ; sent < 100; sent++ {
		if err := p.send(frameOp, 0, make([]byte, 1<<20)); err != nil {
			if !errors.Is(err, errQueueFull) {
				t.Errorf("error is %v", err)
			}
			break
		}
	}
	if sent > maxOut>>20 {
		t.Errorf("%d MiB wait", sent)
	}
	p.close()
	if err := p.send(frameOp, 0, nil); !errors.Is(err, errCrashed) {
		t.Errorf("after close the error is %v", err)
	}
}

// A spy keeps the memory that is written from, or read into.
type spy struct {
	io.ReadWriteCloser
	mu   sync.Mutex
	seen [][]byte
}

func (s *spy) note(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, b)
}

func (s *spy) Read(b []byte) (int, error) {
	s.note(b)
	return s.ReadWriteCloser.Read(b)
}

func (s *spy) Write(b []byte) (int, error) {
	s.note(b)
	return s.ReadWriteCloser.Write(b)
}

// Plaintexts and the PIN are in the buffers of a pipe no longer than it takes.
func TestBuffersAreWiped(t *testing.T) {
	a, b := net.Pipe()
	writes, reads := &spy{ReadWriteCloser: a}, &spy{ReadWriteCloser: b}
	out, in := newPipe(writes, maxRequest), newPipe(reads, maxRequest)
	got := make(chan int, 8)
	var wg sync.WaitGroup
	wg.Go(func() { _ = out.write() })
	wg.Go(func() { _ = in.read(func(f frame) error { got <- len(f.body); return nil }) })
	secret := []byte("a plaintext that must not stay")
	for _, size := range []int{1, 1000, 100_000} { // the last one has both buffers grow
		if err := out.send(framePIN, 0, bytes.Repeat(secret, 1+size/len(secret))); err != nil {
			t.Fatal(err)
		}
		<-got
	}
	out.close()
	in.close()
	wg.Wait()
	for _, s := range []*spy{writes, reads} {
		if len(s.seen) == 0 {
			t.Fatal("nothing was seen")
		}
		for _, b := range s.seen {
			if bytes.Contains(b[:cap(b)], secret[:8]) {
				t.Error("a buffer still has it")
			}
		}
	}
}
