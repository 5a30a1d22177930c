package hsm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/kms"
)

// A server is a worker process from inside: the token, and the pipe to the gateway.
type server struct {
	pipe  *pipe
	token atomic.Pointer[token]
	exit  func(int)
	slots sync.WaitGroup // ops that run

	mu        sync.Mutex
	running   map[uint64]*orderContext
	callers   map[string]context.Context // of orders, by kms.CallerOf
	questions map[uint64]chan frame      // that the gateway has to answer
	asked     uint64
}

// IsWorker reports whether this process was started to be a worker: its main function
// then has to call Worker, and nothing else.
func IsWorker() bool { return len(os.Args) == 2 && os.Args[1] == WorkerArgument }

// Worker does what a gateway, which has started this process, says over a socket on
// descriptor 3. The process ends when the socket does, whatever the module is doing:
// with the gateway, if it was killed. (PR_SET_PDEATHSIG would be bound to the thread of
// the gateway that started the process, not to the gateway; prctl(2).)
func Worker() error {
	conn, err := inheritedSocket()
	if err != nil {
		return fmt.Errorf("hsm: a worker process is started by keygate server: descriptor %d: %w", workerFD, err)
	}
	if err := closeInherited(); err != nil {
		return fmt.Errorf("hsm: close what the worker process inherited: %w", err)
	}
	// Of those that mean the gateway, which ends the worker when it has finished.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGTERM)
	s := newServer(conn, os.Exit)
	return s.run()
}

func newServer(conn net.Conn, exit func(int)) *server {
	return &server{
		pipe: newPipe(conn, maxRequest), exit: exit, running: make(map[uint64]*orderContext),
		callers: make(map[string]context.Context), questions: make(map[uint64]chan frame),
	}
}

func inheritedSocket() (net.Conn, error) {
	// A socket that a module's child processes do not get.
	if _, err := unix.FcntlInt(workerFD, unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, err
	}
	f := os.NewFile(workerFD, "gateway")
	defer f.Close()
	return net.FileConn(f)
}

// closeInherited closes what was handed over beside standard input, output and error:
// it has no FD_CLOEXEC, which all has that this process has opened.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	return nil
}

// run ends the process when the pipe ends: on this goroutine, which no call of the
// module keeps from it.
func (s *server) run() error {
	go func() {
		if s.pipe.write() != nil {
			s.exit(0) // the gateway is gone
		}
	}()
	err := s.pipe.read(s.handle)
	if errors.Is(err, errFrame) {
		return err
	}
	s.exit(0)
	return nil
}

// handle does what a frame says. It waits for nothing.
func (s *server) handle(f frame) error {
	switch f.kind {
	case frameHello:
		var cfg Config
		if err := json.Unmarshal(f.body, &cfg); err != nil {
			return fmt.Errorf("%w: %w", errFrame, err)
		}
		go s.open(cfg)
	case frameOp:
		return s.order(f)
	case frameCancel:
		s.cancel(f.n)
	case framePing:
		s.pong()
	case frameClose:
		go s.close()
	case frameKnown, framePIN, frameLoggedIn:
		s.answered(f)
	default:
		return fmt.Errorf("%w: kind %d", errFrame, f.kind)
	}
	return nil
}

// open connects to the token.
func (s *server) open(cfg Config) {
	log := slog.New(&remoteLog{pipe: s.pipe})
	t, err := openToken(context.Background(), cfg, &pinSource{over: s.logIn}, &acquaintance{ask: s.introduce}, log)
	if err != nil {
		_ = s.pipe.sendError(frameFailed, 0, err)
		return // the gateway ends the process
	}
	s.token.Store(t)
	_ = s.pipe.sendJSON(frameReady, 0, t.workerStatus())
}

func (s *server) pong() {
	t := s.token.Load()
	if t == nil {
		_ = s.pipe.send(framePong, 0, nil)
		return
	}
	_ = s.pipe.sendJSON(framePong, 0, t.workerStatus())
}

func (s *server) close() {
	var err error
	if t := s.token.Load(); t != nil {
		err = t.close()
	}
	if err == nil {
		s.slots.Wait() // what has been done is told before
	}
	_ = s.pipe.sendError(frameClosed, 0, err)
}

// An orderContext ends with its deadline or when its caller has left. Nobody waits for
// the deadline here: token.run does.
type orderContext struct {
	context.Context // with the caller
	end             time.Time
	gone            chan struct{}
	left            atomic.Bool
}

func (c *orderContext) Deadline() (time.Time, bool) { return c.end, true }
func (c *orderContext) Done() <-chan struct{}       { return c.gone }

func (c *orderContext) Err() error {
	switch {
	case c.left.Load():
		return context.Canceled
	case !time.Now().Before(c.end):
		return context.DeadlineExceeded
	}
	return nil
}

// orders are the buffers that orders are copied to, of orderSize bytes each.
var orders = sync.Pool{New: func() any { b := make([]byte, orderSize); return &b }}

const orderSize = 8 << 10

// order begins what an order says.
func (s *server) order(f frame) error {
	var buf *[]byte
	if len(f.body) <= orderSize {
		buf = orders.Get().(*[]byte)
	} else {
		large := make([]byte, len(f.body))
		buf = &large
	}
	own := (*buf)[:len(f.body)]
	copy(own, f.body)
	o, err := parseOrder(own)
	if err != nil {
		return err
	}
	ctx := &orderContext{end: time.Now().Add(o.left), gone: make(chan struct{})}
	s.mu.Lock()
	ctx.Context = s.callerLocked(o.caller)
	s.running[f.n] = ctx
	s.mu.Unlock()
	n := f.n
	s.slots.Go(func() {
		s.do(n, ctx, &o)
		clear(own)
		if len(*buf) == orderSize {
			orders.Put(buf)
		}
	})
	return nil
}

// maxCallers is how many callers are remembered, to be made anew after that.
const maxCallers = 4096

// callerLocked returns a context that has the caller. mu is held.
func (s *server) callerLocked(caller []byte) context.Context {
	if ctx := s.callers[string(caller)]; ctx != nil {
		return ctx
	}
	if len(s.callers) >= maxCallers {
		clear(s.callers)
	}
	name := string(caller)
	ctx := kms.WithCaller(context.Background(), func() string { return name })
	s.callers[name] = ctx
	return ctx
}

// do does an order, and answers.
func (s *server) do(n uint64, ctx *orderContext, o *order) {
	result, err := s.perform(ctx, &o.op)
	defer clear(result)
	s.mu.Lock()
	delete(s.running, n)
	s.mu.Unlock()
	if err == nil && len(result) > maxReply-frameHeader-4 {
		err = fmt.Errorf("hsm: an answer of %d bytes: %w", len(result), kms.ErrUnsupported)
	}
	if err != nil {
		_ = s.pipe.sendError(frameError, n, err)
		return
	}
	if b, at, err := s.pipe.begin(frameAnswer, n, 4+len(result)); err == nil {
		s.pipe.end(appendBytes(b, result), at)
	}
}

func (s *server) perform(ctx context.Context, o *op) ([]byte, error) {
	t := s.token.Load()
	if t == nil {
		return nil, errConnecting
	}
	return t.do(ctx, o)
}

func (s *server) cancel(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx := s.running[n]; ctx != nil && !ctx.left.Swap(true) {
		close(ctx.gone)
	}
}

// question returns a number, and where the answers to what is sent with it come.
func (s *server) question() (uint64, chan frame) {
	answers := make(chan frame, 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	s.questions[s.asked] = answers
	return s.asked, answers
}

func (s *server) settled(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.questions, n)
}

// answered passes an answer to whom has asked, who wipes it.
func (s *server) answered(f frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answers := s.questions[f.n]; answers != nil {
		f.body = append([]byte(nil), f.body...)
		select {
		case answers <- f:
		default:
		}
	}
}

// introduce asks the gateway which memory a link has to be compared with.
func (s *server) introduce(m memory) (known memory, err error) {
	n, answers := s.question()
	defer s.settled(n)
	if err := s.pipe.sendJSON(frameMemory, n, m); err != nil {
		return known, err
	}
	f := <-answers // or the process ends
	if err := json.Unmarshal(f.body, &known); err != nil {
		return known, fmt.Errorf("%w: %w", errFrame, err)
	}
	return known, nil
}

// logIn calls login with the PIN, if the gateway has one that may be tried, tells it
// what came of that, and returns what the gateway makes of it.
func (s *server) logIn(login func(pin []byte, accepted bool) error) error {
	n, answers := s.question()
	defer s.settled(n)
	if err := s.pipe.send(frameAskPIN, n, nil); err != nil {
		return err
	}
	f := <-answers
	if f.kind == framePIN && len(f.body) > 0 {
		err := login(f.body[1:], f.body[0] == 1)
		clear(f.body)
		if err := s.pipe.sendError(frameLogin, n, err); err != nil {
			return err
		}
		f = <-answers
	}
	said, err := parseError(f.body)
	return errors.Join(said, err)
}

// workerStatus returns what the gateway has to know of a token in a worker.
func (t *token) workerStatus() workerStatus {
	return workerStatus{Info: t.info(), Stats: t.stats(), Stuck: t.stuck()}
}

// stuck says why the module has to be loaded into a new process, which is what ends
// calls that hang; empty: it has not.
func (t *token) stuck() string {
	t.repair.mu.Lock()
	connecting := t.repair.hung
	t.repair.mu.Unlock()
	switch {
	case connecting > 0:
		return "to connect to the token takes more than " + connectTimeout.String()
	case t.pool.stuck():
		return "calls"
	case t.keeper.stuck():
		return "calls that load keys"
	case t.module.changing.hang(longChange * t.cfg.Timeout):
		return "a call that makes or destroys a key in the token"
	}
	return ""
}

// stuck reports whether so many calls hang that no other worker takes the place of one
// that hangs, or whether all are in the module and none has ended for as long as one
// may take.
func (p *pool) stuck() bool {
	p.mu.Lock()
	lost := p.lost
	p.mu.Unlock()
	return lost > 0 && lost >= p.spares || p.queue.stands(p.hung)
}

// stands reports whether all workers are in calls of which none has begun or ended for
// so long.
func (q *queue) stands(long time.Duration) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.workers > 0 && q.idle == 0 && time.Since(q.progress) > long
}

// A remoteLog is the log of a worker: the gateway's.
type remoteLog struct {
	pipe  *pipe
	attrs []string
}

func (l *remoteLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

func (l *remoteLog) Handle(_ context.Context, r slog.Record) error {
	line := logLine{Level: r.Level, Text: clip(r.Message), Attrs: append([]string(nil), l.attrs...)}
	r.Attrs(func(a slog.Attr) bool {
		line.Attrs = append(line.Attrs, a.Key, clip(a.Value.String()))
		return true
	})
	return l.pipe.sendJSON(frameLog, 0, line)
}

// clip cuts what is sent to be logged. The gateway cuts it again; see outputSeen.
func clip(s string) string { return s[:min(len(s), outputSeen)] }

func (l *remoteLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := &remoteLog{pipe: l.pipe, attrs: append([]string(nil), l.attrs...)}
	for _, a := range attrs {
		with.attrs = append(with.attrs, a.Key, clip(a.Value.String()))
	}
	return with
}

func (l *remoteLog) WithGroup(string) slog.Handler { return l }
