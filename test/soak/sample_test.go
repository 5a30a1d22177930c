package soak_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A sample is what a gateway is like at one time, seen from outside.
type sample struct {
	at      time.Duration // since the load began
	figures map[string]float64
}

// The figures of a sample. Those of workers, processes that the gateway runs the
// module in, are sums; they are missing where there are none.
const (
	threads    = "threads"
	fds        = "fds"
	rss        = "RSS MiB"
	pss        = "PSS MiB"
	goroutines = "goroutines"
	heap       = "heap MiB" // of objects, those included that the collector has not found yet
	open       = "HSM sessions"
	atModule   = "at the module" // sessions that the shim has seen opened and not closed
	loaded     = "loaded keys"
	destroyed  = "destroyed" // calls of C_DestroyObject, ever
	opened     = "opened"    // calls of C_OpenSession, ever
	records    = "records"   // key records in memory
	branches   = "branch keys"
	workers    = "workers"
	ofWorkers  = "workers' " // before threads, fds, rss and pss
)

// metrics are figures that the gateway tells itself, by the families that are their
// sums.
var metrics = map[string]string{
	"keygate_hsm_sessions_open": open, "keygate_hsm_loaded_keys": loaded,
	"go_goroutines": goroutines, "go_memstats_heap_alloc_bytes": heap,
	"keygate_record_cache_records": records, "keygate_branch_cache_keys": branches,
}

const mib = 1 << 20

// look takes a sample.
func (g *gateway) look(admin *door, at time.Duration) (sample, error) {
	s := sample{at: at, figures: make(map[string]float64)}
	pid := g.cmd.Process.Pid
	err := s.process(pid, "")
	children := childrenOf(pid)
	for _, child := range children {
		err = errors.Join(err, s.process(child, ofWorkers))
	}
	if len(children) > 0 {
		s.figures[workers] = float64(len(children))
	}
	all, scrapeErr := scrape(admin)
	for family, figure := range metrics {
		s.figures[figure] = total(all, family)
	}
	s.figures[heap] /= mib
	if _, there := s.figures[fds]; !there { // others than root do not see those of a process that is not dumpable
		s.figures[fds] = all["process_open_fds"]
	}
	s.figures[atModule] = float64(g.sessions())
	s.figures[destroyed], s.figures[opened] = float64(g.calls("C_DestroyObject")), float64(g.calls("C_OpenSession"))
	return s, errors.Join(err, scrapeErr)
}

// process adds the figures of a process, as far as this user may see them (proc(5)).
func (s *sample) process(pid int, prefix string) error {
	dir := fmt.Sprintf("/proc/%d/", pid)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return err
	}
	s.figures[prefix+threads] += field(status, "Threads")
	s.figures[prefix+rss] += field(status, "VmRSS") * 1024 / mib
	if list, err := os.ReadDir(dir + "fd"); err == nil {
		s.figures[prefix+fds] += float64(len(list))
	}
	if rollup, err := os.ReadFile(dir + "smaps_rollup"); err == nil {
		s.figures[prefix+pss] += field(rollup, "Pss") * 1024 / mib
	}
	return nil
}

// field returns the number after a name and a colon at the beginning of a line.
func field(text []byte, name string) float64 {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			n, _ := strconv.ParseFloat(strings.Fields(string(rest))[0], 64)
			return n
		}
	}
	return 0
}

// childrenOf returns the processes whose parent is pid.
func childrenOf(pid int) (children []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, name := range all {
		status, err := os.ReadFile(name)
		if err == nil && int(field(status, "PPid")) == pid {
			children = append(children, int(field(status, "Pid")))
		}
	}
	return children
}

// scrape returns the series of /metrics, those with labels too, by all that stands
// before the value.
func scrape(admin *door) (map[string]float64, error) {
	var text string
	if err := admin.call(context.Background(), "GET", "/metrics", nil, &text); err != nil {
		return nil, fmt.Errorf("/metrics: %w", err)
	}
	all := make(map[string]float64)
	for line := range strings.Lines(text) {
		series, value, ok := cutLast(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("/metrics: %q: %w", line, err)
		}
		all[series] = v
	}
	return all, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// total returns the sum of the series of a family.
func total(all map[string]float64, family string) (sum float64) {
	for series, v := range all {
		if series == family || strings.HasPrefix(series, family+"{") {
			sum += v
		}
	}
	return sum
}
