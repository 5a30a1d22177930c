package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keygate/keygate/audit"
)

// A disk is a place for a log that can be filled and emptied.
type disk struct {
	dir         string
	fill, empty func()
}

// limited is a disk where a file may grow to some hundred bytes more, by
// RLIMIT_FSIZE: the kernel then writes the part that fits, as on a full disk.
func limited(t *testing.T) disk {
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	set := func(limit syscall.Rlimit) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { set(old) })
	return disk{
		dir:   t.TempDir(),
		fill:  func() { set(syscall.Rlimit{Cur: 4000, Max: old.Max}) },
		empty: func() { set(old) },
	}
}

// tmpfs is a real disk of 64 KiB.
func tmpfs(t *testing.T) disk {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Skipf("no tmpfs can be mounted here (%v); the case with RLIMIT_FSIZE stands for it", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	return disk{
		dir: dir,
		fill: func() {
			err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600)
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("the disk is not full: %v", err)
			}
		},
		empty: func() {
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func TestAU01FullDiskRefusesAndLosesNothing(t *testing.T) {
	for name, make := range map[string]func(*testing.T) disk{"RLIMIT_FSIZE": limited, "tmpfs": tmpfs} {
		t.Run("AU-01 "+name, func(t *testing.T) { fullDisk(t, make(t)) })
	}
}

func fullDisk(t *testing.T, d disk) {
	file := filepath.Join(d.dir, "audit.log")
	l := open(t, audit.Config{File: file})
	n := 0
	write := func() error {
		n++
		return l.Write(entry(n - 1))
	}
	for range 3 {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	d.fill()
	var err error
	for range 1000 {
		if err = write(); err != nil {
			break
		}
	}
	if !errors.Is(err, audit.ErrUnavailable) {
		t.Fatalf("on a full disk Write returned %v, want ErrUnavailable", err)
	}
	onDisk := n - 1
	if err := l.Ready(); !errors.Is(err, audit.ErrUnavailable) {
		t.Fatalf("on a full disk Ready returned %v, want ErrUnavailable", err)
	}
	for range 20 { // requests that are refused are entries, too
		if err := write(); !errors.Is(err, audit.ErrUnavailable) {
			t.Fatalf("Write returned %v, want ErrUnavailable", err)
		}
	}
	if got := len(read(t, file)); got != onDisk { // read fails on a torn line
		t.Errorf("%d entries on the full disk, want %d", got, onDisk)
	}
	d.empty()
	if err := l.Ready(); err != nil {
		t.Fatalf("with space again Ready returned %v", err)
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	all := read(t, file)
	if len(all) != n {
		t.Fatalf("%d entries, want %d: there is a gap", len(all), n)
	}
	for i, e := range all {
		if e.RequestID != entry(i).RequestID {
			t.Fatalf("entry %d is %s: out of order", i, e.RequestID)
		}
		if late := onDisk <= i && i < n-1; e.Late != late {
			t.Errorf("entry %d: late is %t, want %t", i, e.Late, late)
		}
	}
	if s := l.Stats(); s.Written != uint64(n) || s.Failed != 21 || s.Missed != 0 || s.Backlog != 0 {
		t.Errorf("stats are %+v", s)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestFullDiskWhereTheLogIsNotRequired(t *testing.T) {
	d := limited(t)
	file := filepath.Join(d.dir, "audit.log")
	required := false
	l := open(t, audit.Config{File: file, Required: &required})
	defer l.Close()
	d.fill()
	for i := range 40 {
		if err := errors.Join(l.Ready(), l.Write(entry(i))); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.Stats(); s.Failed == 0 {
		t.Fatalf("the disk was not full: %+v", s)
	}
	d.empty()
	if err := l.Ready(); err != nil {
		t.Fatal(err)
	}
	if got := len(read(t, file)); got != 40 {
		t.Errorf("%d entries, want 40", got)
	}
}

func TestBacklogIsBoundedAndTheGapIsWrittenDown(t *testing.T) {
	d := limited(t)
	file := filepath.Join(d.dir, "audit.log")
	l := open(t, audit.Config{File: file})
	defer l.Close()
	d.fill()
	big := entry(0)
	big.Path = strings.Repeat("x", 100_000)
	const n = 2 * audit.MaxBacklog / 100_000
	for range n {
		if err := l.Write(big); !errors.Is(err, audit.ErrUnavailable) {
			t.Fatalf("Write returned %v", err)
		}
	}
	s := l.Stats()
	if s.Backlog > audit.MaxBacklog || s.Missed == 0 || s.Failed != n {
		t.Fatalf("stats are %+v", s)
	}
	d.empty()
	if err := l.Write(entry(1)); err != nil {
		t.Fatal(err)
	}
	all := read(t, file)
	if len(all) != n-int(s.Missed)+2 {
		t.Fatalf("%d lines", len(all))
	}
	gap := all[len(all)-2]
	if gap.Operation != "audit" || gap.Outcome != "error" || !strings.Contains(gap.Error, "entries could not be written") {
		t.Errorf("the gap is written down as %+v", gap)
	}
	if all[len(all)-1].RequestID != entry(1).RequestID {
		t.Error("the entry after the gap is missing")
	}
}
