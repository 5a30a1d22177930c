package hsm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/kms"
)

// A process is a worker process as the gateway sees it. It is not trusted: a module
// that somebody else controls may send anything.
type process struct {
	remote *remote
	cmd    *exec.Cmd
	pid    int
	pipe   *pipe
	output *output
	status atomic.Pointer[workerStatus] // as of late; never nil
	heard  atomic.Bool                  // something came since the last tick
	begun  atomic.Bool                  // something ever came
	pongs  atomic.Uint64

	ready  chan struct{} // closed when ops can be sent
	closed chan error    // gets the answer to frameClose
	ended  chan struct{} // closed when it is of no use any longer
	waited chan struct{} // closed when the operating system has given it back
	done   sync.WaitGroup

	mu      sync.Mutex
	calls   map[uint64]*remoteCall // that wait for an answer
	next    uint64                 // number of the next
	cause   error                  // why it ended
	isReady bool
	login   chan error // gets the answer to a PIN; nil: no login is under way
}

// A workerStatus is what a worker says of itself.
type workerStatus struct {
	Info  TokenInfo
	Stats Stats
	Stuck string // why it has to be replaced; empty: it has not
}

// A remoteCall is an op in a worker.
type remoteCall struct {
	done   chan struct{} // gets one message when the rest is set
	result []byte
	fate   opFate
	err    error
}

// An opFate says how an op that was meant for a worker ended.
type opFate uint8

const (
	opDone   opFate = iota // it was answered, or was not to be done at all
	opLost                 // the worker ended while it had it
	opUnsent               // the worker had ended before
)

const (
	// WorkerArgument is the one argument of a program that has to call Worker.
	WorkerArgument = "hsm-worker"
	// The program itself, also if its file has been replaced meanwhile.
	ownProgram = "/proc/self/exe"
	workerFD   = 3

	// A worker that has not answered for missedTicks of tickTime, 360 to 450 ms, is
	// stopped. One that would run if the machine had time for it is of no use either
	// after starvedTicks, 1.8 s: another one would take as long to start. Ticks that a
	// gateway missed because it stood still itself do not count.
	tickTime     = 90 * time.Millisecond
	missedTicks  = 4
	starvedTicks = 20
	// maxCalls bounds the ops in a worker. Far fewer wait there: see Queue.
	maxCalls = 1 << 16
)

// startProcess starts a worker process.
func startProcess(r *remote) (*process, error) {
	p := &process{
		remote: r, calls: make(map[uint64]*remoteCall), output: newOutput(r.log, r.cfg.logName()),
		ready: make(chan struct{}), closed: make(chan error, 1), ended: make(chan struct{}), waited: make(chan struct{}),
	}
	p.status.Store(new(workerStatus))
	conn, err := p.run()
	if err != nil {
		return nil, fmt.Errorf("hsm: start the worker process of the module: %w: %w", kms.ErrUnavailable, err)
	}
	p.pipe = newPipe(conn, maxReply)
	p.done.Go(func() { p.stop(p.ending(p.pipe.read(p.handle))) })
	p.done.Go(func() {
		if err := p.pipe.write(); err != nil {
			p.stop(p.ending(err))
		}
	})
	p.done.Go(p.watch)
	p.done.Go(p.wait)
	cfg := r.cfg
	cfg.PIN = PIN{} // it is asked for
	if err := p.pipe.sendJSON(frameHello, 0, cfg); err != nil {
		p.stop(err)
	}
	return p, nil
}

// run starts the process, which has no descriptors but one end of a socket, whose
// other end run returns, and what it writes errors to.
func (p *process) run() (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "gateway")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer writer.Close()
	p.cmd = &exec.Cmd{
		Path: ownProgram, Args: []string{"keygate", WorkerArgument}, Env: workerEnvironment(p.remote.pin.from),
		Stderr: writer, ExtraFiles: []*os.File{theirs},
		// Not in the process group of a terminal, whose signals mean the gateway.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if err := p.cmd.Start(); err != nil {
		conn.Close()
		reader.Close()
		return nil, err
	}
	p.pid = p.cmd.Process.Pid
	p.done.Go(func() { p.output.lines(reader, p.pid) })
	p.done.Go(func() {
		<-p.waited
		// What it wrote last is read; but a process that the module left behind may
		// keep the pipe open.
		time.AfterFunc(100*time.Millisecond, func() { reader.Close() })
	})
	return conn, nil
}

// workerEnvironment is the environment of this process, since modules are configured
// by theirs, without the PIN.
func workerEnvironment(pin PIN) []string {
	var env []string
	for _, e := range os.Environ() {
		if pin.Env == "" || len(e) <= len(pin.Env) || e[:len(pin.Env)+1] != pin.Env+"=" {
			env = append(env, e)
		}
	}
	return env
}

func (p *process) ending(err error) error {
	if errors.Is(err, errFrame) {
		return fmt.Errorf("%w: %w", errCrashed, err)
	}
	return errCrashed
}

// wait waits for the end of the process.
func (p *process) wait() {
	err := p.cmd.Wait() // its text is that of state
	close(p.waited)
	p.stop(p.ending(err))
}

// stop ends the process, if it has not ended, and fails all ops in it with cause,
// unless they have failed before.
func (p *process) stop(cause error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause != nil {
		return
	}
	p.cause = cause
	_ = p.cmd.Process.Kill() // SIGKILL also ends one that was stopped
	p.pipe.close()
	for n, c := range p.calls {
		delete(p.calls, n)
		c.fate, c.err = opLost, cause
		c.done <- struct{}{}
	}
	close(p.ended)
}

// why returns why p ended.
func (p *process) why() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cause
}

// reaped waits until the operating system has given p back, so that the next worker
// finds a device free; but no longer than for a second, as a driver may hold it.
func (p *process) reaped() {
	select {
	case <-p.waited:
	case <-time.After(time.Second):
	}
}

// state says how the process ended.
func (p *process) state() string {
	select {
	case <-p.waited:
		return p.cmd.ProcessState.String()
	default:
		return "it does not end"
	}
}

// watch asks the process all the time whether it is there, and ends it if it is not,
// or says that it has to be replaced.
func (p *process) watch() {
	tick := time.NewTicker(tickTime)
	defer tick.Stop()
	for missed := 0; ; {
		select {
		case <-p.ended:
			return
		case <-tick.C:
		}
		switch {
		case p.heard.Swap(false):
			missed = 0
		case p.begun.Load(): // before, the time to start counts
			missed++
		}
		if missed >= starvedTicks || missed >= missedTicks && !wantsToRun(p.pid) {
			p.stop(errStalled)
			return
		}
		if stuck := p.status.Load().Stuck; stuck != "" {
			p.stop(fmt.Errorf("%w: %s", errHung, stuck))
			return
		}
		_ = p.pipe.send(framePing, 0, nil)
	}
}

// wantsToRun reports whether a thread of a process runs, waits for a processor or waits
// for a page of memory: states R and D of proc_pid_stat(5). It does not where that
// cannot be known.
func wantsToRun(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range threads {
		stat, _ := os.ReadFile(path) // PID (NAME) STATE ...; the name may hold anything
		if _, state, found := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(") ")); found && len(state) > 0 && (state[0] == 'R' || state[0] == 'D') {
			return true
		}
	}
	return false
}

// refreshTime is how long refresh waits.
const refreshTime = 50 * time.Millisecond

// refresh waits a moment for a status of now.
func (p *process) refresh() {
	before := p.pongs.Load()
	if p.pipe.send(framePing, 0, nil) != nil {
		return
	}
	for end := time.Now().Add(refreshTime); p.pongs.Load() == before && time.Now().Before(end); {
		select {
		case <-p.ended:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// do does o in the process.
func (p *process) do(ctx context.Context, o *op) ([]byte, opFate, error) {
	w := waits.Get().(*waiting)
	c := &remoteCall{done: w.done}
	n, fate, err := p.submit(c, &order{op: *o, caller: []byte(kms.CallerOf(ctx)), left: remaining(ctx)})
	if err != nil {
		waits.Put(w)
		return nil, fate, err
	}
	o.begun.says(maxMade) // nothing is known yet
	if reason := w.until(ctx, nil, math.MaxInt64); reason != nil {
		if p.leave(n) {
			waits.Put(w)
			return nil, opDone, reason
		}
		<-w.done
	}
	waits.Put(w)
	if c.fate == opDone && c.err != nil && !errors.Is(c.err, errBegun) {
		o.begun.says(0)
	}
	return c.result, c.fate, c.err
}

// submit sends an order, whose answer c gets.
func (p *process) submit(c *remoteCall, o *order) (n uint64, fate opFate, err error) {
	if o.size() > maxRequest-frameHeader {
		return 0, opDone, fmt.Errorf("hsm: %d bytes at once: %w", o.size(), kms.ErrUnsupported)
	}
	if n, fate, err = p.enter(c); err != nil {
		return 0, fate, err
	}
	b, at, err := p.pipe.begin(frameOp, n, o.size())
	if err == nil {
		p.pipe.end(o.append(b), at)
		return n, opDone, nil
	}
	if entered, _ := p.take(n); entered == nil {
		<-c.done // stop has ended it
		return 0, opUnsent, c.err
	}
	return 0, opDone, err
}

// enter gives c a number.
func (p *process) enter(c *remoteCall) (n uint64, fate opFate, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause != nil {
		return 0, opUnsent, p.cause
	}
	if len(p.calls) >= maxCalls {
		return 0, opDone, errQueueFull
	}
	n = p.next
	p.next++
	p.calls[n] = c
	return n, opDone, nil
}

// leave says that nobody waits for an op any longer. It reports false if it has ended.
func (p *process) leave(n uint64) bool {
	if c, _ := p.take(n); c == nil {
		return false
	}
	_ = p.pipe.send(frameCancel, n, nil)
	return true
}

// take returns the call of a number that waits for its answer, which it then does no
// longer, or nil, and whether there ever was one.
func (p *process) take(n uint64) (c *remoteCall, asked bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c = p.calls[n]
	delete(p.calls, n)
	return c, n < p.next
}

// handle does what a frame says. An error ends the process.
func (p *process) handle(f frame) error {
	if !p.heard.Load() {
		p.heard.Store(true)
		p.begun.Store(true)
	}
	switch f.kind {
	case frameAnswer, frameError:
		return p.answer(f)
	case framePong, frameReady:
		return p.learn(f)
	case frameFailed, frameClosed, frameLogin:
		return p.told(f)
	case frameMemory:
		return p.introduce(f)
	case frameAskPIN:
		return p.logIn(f.n)
	case frameLog:
		return p.output.record(f.body, p.pid)
	}
	return fmt.Errorf("%w: kind %d", errFrame, f.kind)
}

// answer ends the call that f answers. One whose caller has left is none any longer.
func (p *process) answer(f frame) error {
	var result []byte
	var failure error
	if f.kind == frameAnswer {
		r := reading{b: f.body}
		result = r.bytes()
		if err := r.end("an answer"); err != nil {
			return err
		}
	} else {
		var err error
		if failure, err = parseError(f.body); err != nil {
			return err
		}
		if failure == nil {
			return fmt.Errorf("%w: an error that is none", errFrame)
		}
	}
	c, asked := p.take(f.n)
	switch {
	case !asked:
		return fmt.Errorf("%w: an answer to nothing", errFrame)
	case c != nil: // else its caller has left
		c.result, c.err = bytes.Clone(result), failure
		c.done <- struct{}{}
	}
	return nil
}

// learn keeps what the process says of itself.
func (p *process) learn(f frame) error {
	if len(f.body) > 0 {
		s := new(workerStatus)
		if err := json.Unmarshal(f.body, s); err != nil {
			return fmt.Errorf("%w: %w", errFrame, err)
		}
		p.status.Store(s)
	}
	p.pongs.Add(1)
	if f.kind != frameReady {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isReady {
		return fmt.Errorf("%w: ready twice", errFrame)
	}
	p.isReady = true
	close(p.ready)
	return nil
}

// told passes an error on to whom waits for it.
func (p *process) told(f frame) error {
	what, err := parseError(f.body)
	if err != nil {
		return err
	}
	switch f.kind {
	case frameFailed:
		if what == nil {
			what = errFrame
		}
		p.stop(what)
	case frameClosed:
		select {
		case p.closed <- what:
		default:
		}
	case frameLogin:
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.login == nil {
			return fmt.Errorf("%w: the end of no login", errFrame)
		}
		p.login <- what
		p.login = nil
	}
	return nil
}

// introduce answers with the memory that the process has to compare its token's with.
func (p *process) introduce(f frame) error {
	var m memory
	if err := json.Unmarshal(f.body, &m); err != nil {
		return fmt.Errorf("%w: %w", errFrame, err)
	}
	return p.pipe.sendJSON(frameKnown, f.n, p.remote.same.first(m))
}

// logIn gives the PIN to the process, if it is not one that was refused. One login is
// under way at a time.
func (p *process) logIn(n uint64) error {
	login := make(chan error, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause != nil {
		return p.cause
	}
	if p.login != nil {
		return fmt.Errorf("%w: a login during a login", errFrame)
	}
	p.login = login
	p.done.Go(func() {
		err := p.remote.pin.use(func(pin []byte, accepted bool) error { return p.tryPIN(n, pin, accepted, login) })
		p.mu.Lock()
		if p.login == login { // there was no PIN to try
			p.login = nil
		}
		p.mu.Unlock()
		_ = p.pipe.sendError(frameLoggedIn, n, err)
	})
	return nil
}

// tryPIN returns what the token says of pin.
func (p *process) tryPIN(n uint64, pin []byte, accepted bool, login <-chan error) error {
	p.output.hide(pin)
	defer p.output.hide(nil)
	b, at, err := p.pipe.begin(framePIN, n, 1+len(pin))
	if err != nil {
		return err
	}
	known := byte(0)
	if accepted {
		known = 1
	}
	p.pipe.end(append(append(b, known), pin...), at)
	select {
	case err := <-login:
		return err
	case <-p.ended:
		return fmt.Errorf("%w: %w", errUnanswered, p.why())
	}
}

// close has the process close its token, and returns what came of it.
func (p *process) close(patience time.Duration) error {
	if err := p.pipe.send(frameClose, 0, nil); err != nil {
		return err
	}
	select {
	case err := <-p.closed:
		return err
	case <-p.ended:
		return p.why()
	case <-time.After(patience):
		return errHung
	}
}
