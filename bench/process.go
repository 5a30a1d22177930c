package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A process is a server on loopback.
type process struct {
	cmd    *exec.Cmd
	addr   string
	log    *os.File // what it writes
	exited chan struct{}
}

// startProcess starts cmd with its output in a file. It ends with ctx, with stop,
// or at the latest with this process.
func startProcess(ctx context.Context, logFile, addr string, env []string, name string, args ...string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTime
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		log.Close()
		return nil, err
	}
	p := &process{cmd: cmd, addr: addr, log: log, exited: make(chan struct{})}
	go func() {
		cmd.Wait() // how it ended is of no interest
		log.Close()
		close(p.exited)
	}()
	return p, nil
}

// stopTime is more than a server needs to drain.
const stopTime = 15 * time.Second

// stop ends the process and waits for its end.
func (p *process) stop() {
	if p == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopTime):
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// last returns the end of what the process wrote.
func (p *process) last() string {
	b, _ := os.ReadFile(p.log.Name())
	return string(bytes.TrimSpace(b[max(0, len(b)-2000):]))
}

// tick is the unit of CPU time in /proc: USER_HZ is 100 on all architectures of
// Linux that Go knows.
const tick = time.Second / 100

// cpu returns the CPU time that the process has used, user and system.
func (p *process) cpu() time.Duration {
	if p == nil {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	return parseCPU(b)
}

// parseCPU reads the fields utime and stime of proc(5)'s stat, 14 and 15.
func parseCPU(stat []byte) time.Duration {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // the name may hold anything
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick
}

// rss returns the memory of the process that is in RAM, in KiB.
func (p *process) rss() int {
	if p == nil {
		return 0
	}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB"))
			return n
		}
	}
	return 0
}

// waitUntil calls ready until it returns nil, the process ends or ctx does.
func (p *process) waitUntil(ctx context.Context, ready func() error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("the server has ended: %s", p.last())
		case <-ctx.Done():
			return fmt.Errorf("the server is not ready: %w: %s", err, p.last())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// readyTime is how long a server may take to start.
const readyTime = time.Minute
