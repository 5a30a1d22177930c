package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// holdCommand is the first argument of this program where it is the process that
// holds idle connections. In the load generator's own they would make its
// garbage collections long, and be taken for the server's delay.
const holdCommand = "hold-connections"

// A holder is that process, or another like it, as seen by the one that measures.
type holder struct {
	cmd *exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

// startHolder returns when the connections are open.
func startHolder(ctx context.Context, g *gateway, n int) (*holder, error) {
	return startChild(ctx, holdCommand, g, n)
}

// startChild starts this program with another first argument, and returns when it
// says that it has opened its n connections.
func startChild(ctx context.Context, command string, g *gateway, n int) (*holder, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, command, g.addr, g.state.dir, strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &holder{cmd, in, bufio.NewReader(out)}
	if open, err := h.number(); err != nil || open != n {
		h.stop()
		return nil, fmt.Errorf("%d connections opened of %d: %w", open, n, err)
	}
	return h, nil
}

func (h *holder) number() (n int, err error) {
	line, err := h.out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("the process of the connections has ended: %w", err)
	}
	_, err = fmt.Sscan(line, &n)
	return n, err
}

// count ends the process and returns how many connections the server had not
// closed.
func (h *holder) count() (int, error) {
	h.in.Close()
	return h.number()
}

func (h *holder) stop() {
	h.cmd.Process.Kill()
	h.cmd.Wait()
}

// holdMain is that process: it opens the connections, says so, waits until its
// standard input ends, and says how many are left.
func holdMain(ctx context.Context, args []string) error {
	t, n, err := childArguments(args)
	if err != nil {
		return err
	}
	all, err := hold(ctx, t, n)
	if err != nil {
		return err
	}
	fmt.Println(n)
	io.Copy(io.Discard, os.Stdin)
	fmt.Println(all.alive())
	return nil
}

// childArguments reads what startChild has said.
func childArguments(args []string) (t target, n int, err error) {
	if len(args) != 3 {
		return t, 0, errors.New("this is not for use by hand")
	}
	if n, err = strconv.Atoi(args[2]); err != nil {
		return t, 0, err
	}
	s, err := readState(args[1])
	if err != nil {
		return t, 0, err
	}
	return target{addr: args[0], ca: s.ca, as: []tls.Certificate{s.app}}, n, nil
}

// held are connections that are open and idle.
type held []*tls.Conn

// hold opens n connections, each of which makes one request, as one that does
// not is closed by the deadline of the first header.
func hold(ctx context.Context, t target, n int) (held, error) {
	all := make(held, n)
	r := newGet("/version")
	var wg sync.WaitGroup
	var next atomic.Int64
	var once sync.Once
	var first error
	for range dialers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				c, err := t.dialTLS(ctx, http1, i)
				if err == nil {
					all[i] = c
					_, err = newH1(c).do(r, dialTime)
				}
				if err != nil {
					once.Do(func() { first = fmt.Errorf("idle connection %d: %w", i, err) })
					return
				}
			}
		})
	}
	wg.Wait()
	if first != nil {
		all.close()
		return nil, first
	}
	return all, nil
}

// alive counts the connections that the server has not closed: those where a
// read ends with its deadline. They cannot be used after.
func (h held) alive() int {
	var n atomic.Int64
	var wg sync.WaitGroup
	deadline := time.Now().Add(time.Second)
	for _, c := range h {
		wg.Go(func() {
			c.SetReadDeadline(deadline)
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return int(n.Load())
}

func (h held) close() {
	for _, c := range h {
		if c != nil {
			c.NetConn().Close() // without a good-bye: there are many
		}
	}
}
