package hsm

import (
	"context"
	"log/slog"
	"strconv"
)

// WorkerPID returns the process id of the worker of r's first token, or 0.
func (r *Root) WorkerPID() int {
	w, ok := r.group.members[0].get().(*remote)
	if !ok {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process == nil {
		return 0
	}
	return w.process.pid
}

// StallTime is how long a worker that has stopped goes unnoticed at the most.
const StallTime = (missedTicks + 1) * tickTime

// WantsToRun is for TestAWorkerThatGetsNoProcessor.
var WantsToRun = wantsToRun

// Kinds of frames of a worker.
const (
	FrameReady  = uint8(frameReady)
	FrameFailed = uint8(frameFailed)
	FrameAnswer = uint8(frameAnswer)
	FramePong   = uint8(framePong)
	FrameMemory = uint8(frameMemory)
	FrameAskPIN = uint8(frameAskPIN)
	FrameLogin  = uint8(frameLogin)
	FrameLog    = uint8(frameLog)
)

// Frame returns a frame.
func Frame(kind uint8, n uint64, body []byte) []byte {
	b, at := beginFrame(nil, frameKind(kind), n)
	return endFrame(append(b, body...), at)
}

// StartAndKillWorker starts a worker, ends it when it can be used, and returns its
// process id when all that belongs to it has ended.
func StartAndKillWorker(ctx context.Context, cfg Config) (string, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return "", err
	}
	r := &remote{cfg: cfg, log: slog.New(slog.DiscardHandler), pin: &pinSource{from: cfg.PIN}, same: new(acquaintance)}
	p, err := r.start(ctx)
	if err != nil {
		return "", err
	}
	err = p.cmd.Process.Kill()
	<-p.ended
	p.done.Wait()
	return strconv.Itoa(p.pid), err
}
