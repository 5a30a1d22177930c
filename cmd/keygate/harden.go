package main

import (
	"fmt"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// harden makes the process one whose memory others do not get, and that the end
// of a reader of its output does not kill.
func harden() error {
	unix.Umask(0o077)
	signal.Ignore(syscall.SIGPIPE)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("no core: %w", err)
	}
	// Neither a core nor ptrace, nor /proc/PID/mem and environ for other
	// processes of this user (prctl(2), proc(5)).
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("not dumpable: %w", err)
	}
	return nil
}

// lockMemory keeps the process's memory, as far as it is used, out of swap. It
// fails where the limit of locked memory is lower than what the process has
// (RLIMIT_MEMLOCK; getrlimit(2)), and without CAP_IPC_LOCK that is usual.
func lockMemory() error {
	return unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}
