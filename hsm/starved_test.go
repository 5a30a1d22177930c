package hsm_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/keygate/keygate/hsm"
)

// A worker that gets no processor, on a machine that is busy, is told from one that was
// stopped, or waits.
func TestAWorkerThatGetsNoProcessor(t *testing.T) {
	start := func(path string, args ...string) int {
		t.Helper()
		cmd := exec.Command(path, args...)
		ok(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd.Process.Pid
	}
	shell, err := exec.LookPath("sh")
	ok(t, err)
	sleep, err := exec.LookPath("sleep")
	ok(t, err)
	program, err := os.ReadFile(sleep)
	ok(t, err)
	misnamed := filepath.Join(t.TempDir(), "x) R 1 (x") // as if it were its state
	ok(t, os.WriteFile(misnamed, program, 0o700))

	busy, asleep := start(shell, "-c", "while :; do :; done"), start(misnamed, "60")
	waitFor(t, func() bool { return hsm.WantsToRun(busy) })
	waitFor(t, func() bool { return !hsm.WantsToRun(asleep) })
	ok(t, syscall.Kill(busy, syscall.SIGSTOP))
	waitFor(t, func() bool { return !hsm.WantsToRun(busy) })
	if hsm.WantsToRun(1 << 30) {
		t.Error("there is no such process")
	}
}
