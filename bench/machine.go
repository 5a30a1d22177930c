package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// machine describes where and of what the figures are, a line each.
func (b *bench) machine() []string {
	return []string{
		"Date: " + time.Now().UTC().Format("2006-01-02 15:04 MST"),
		fmt.Sprintf("Machine: %s, %d CPUs, %s, %s", runtime.GOARCH, runtime.NumCPU(), processor(), memory()),
		"System: " + kernel(),
		"Commit: " + b.commit(),
		"Go: " + strings.TrimPrefix(output(b.repo, "go", "version"), "go version "),
		fmt.Sprintf("Load before: %s (1, 5 and 15 minutes)", loadAverage()),
		fmt.Sprintf("Setting: %d rounds of %v after %v, %d connections of HTTP/1.1 or %d of HTTP/2 with %d streams each; load generator on the same machine", b.rounds, b.d, b.warm, b.conns, b.h2conns, b.streams()),
	}
}

func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

func memory() string {
	info, _ := os.ReadFile("/proc/meminfo")
	var kib int
	if _, err := fmt.Sscanf(string(info), "MemTotal: %d kB", &kib); err != nil {
		return "unknown memory"
	}
	return fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
}

func kernel() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return runtime.GOOS + " " + strings.TrimSpace(string(release))
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(b))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

// commit names the commit, and says whether there is more than that.
func (b *bench) commit() string {
	commit := output(b.repo, "git", "rev-parse", "--short=12", "HEAD")
	if commit == "" {
		return "unknown"
	}
	if output(b.repo, "git", "status", "--porcelain", "--untracked-files=no") != "" {
		commit += ", with changes"
	}
	return commit
}

func output(dir, name string, args ...string) string {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
