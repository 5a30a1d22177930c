package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keygate/keygate/hsm"
)

// worker is "worker kill", "worker gone" or "worker PIN": the last fails unless the
// server has a worker process that alone has the module, that leaves no core, and that
// shows no PIN.
func (o *operator) worker(ts *testscript.TestScript, _ bool, args []string) {
	switch args[0] {
	case "kill":
		ts.Check(syscall.Kill(o.workerPID(ts), syscall.SIGKILL))
	case "gone":
		for end := time.Now().Add(time.Second); ; time.Sleep(time.Millisecond) {
			// A process that has ended and that nobody waits for has no command line.
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", o.lastWorker))
			if err != nil || len(text) == 0 {
				return
			}
			if time.Now().After(end) {
				ts.Fatalf("the worker %d is there a second after the server", o.lastWorker)
			}
		}
	default:
		pid := o.workerPID(ts)
		server := fmt.Sprintf("/proc/%d/", o.cmd.Process.Pid)
		worker := fmt.Sprintf("/proc/%d/", pid)
		o.hidden(ts, false, args)
		for _, file := range []string{worker + "cmdline", worker + "environ"} {
			if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(args[0])) {
				ts.Fatalf("%s has the PIN", file)
			}
		}
		limits, err := os.ReadFile(worker + "limits")
		ts.Check(err)
		if !regexp.MustCompile(`Max core file size +0 +0 `).Match(limits) {
			ts.Fatalf("the worker can leave a core:\n%s", limits)
		}
		module := filepath.Base(o.token.Module)
		here, err1 := os.ReadFile(server + "maps")
		there, err2 := os.ReadFile(worker + "maps")
		if os.IsPermission(err1) && os.IsPermission(err2) {
			return // neither is dumpable, and the test is not root
		}
		ts.Check(err1)
		ts.Check(err2)
		if bytes.Contains(here, []byte(module)) || !bytes.Contains(there, []byte(module)) {
			ts.Fatalf("the server has the module: %v; the worker has it: %v", bytes.Contains(here, []byte(module)), bytes.Contains(there, []byte(module)))
		}
		fds, err := os.ReadDir(worker + "fd")
		ts.Check(err)
		for _, fd := range fds {
			if to, err := os.Readlink(worker + "fd/" + fd.Name()); err == nil && strings.Contains(to, ts.Getenv("WORK")) {
				ts.Fatalf("the worker has %s open", to)
			}
		}
	}
}

// workerPID returns the process id of the server's worker.
func (o *operator) workerPID(ts *testscript.TestScript) int {
	children, err := filepath.Glob("/proc/[0-9]*/cmdline")
	ts.Check(err)
	for _, file := range children {
		text, err := os.ReadFile(file)
		if err != nil || !bytes.HasSuffix(text, []byte("\x00"+hsm.WorkerArgument+"\x00")) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(file), "status"))
		if err != nil || !bytes.Contains(status, fmt.Appendf(nil, "\nPPid:\t%d\n", o.cmd.Process.Pid)) {
			continue
		}
		o.lastWorker, err = strconv.Atoi(filepath.Base(filepath.Dir(file)))
		ts.Check(err)
		return o.lastWorker
	}
	ts.Fatalf("the server has no worker")
	return 0
}
