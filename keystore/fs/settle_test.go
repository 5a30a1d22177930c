package fs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// TestGetMakesDurableWhatItSaw: a record that another process has linked, but
// perhaps never synced, is synced before it is used; and only once.
func TestGetMakesDurableWhatItSaw(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "store")}
	must(t, Init(cfg, testIdentity))
	sys := &faulty{armed: true}
	s, err := open(cfg, testIdentity, sys)
	must(t, err)
	defer s.Close()
	other, err := Open(cfg, testIdentity)
	must(t, err)
	defer other.Close()
	get := func() int {
		sys.calls = nil
		_, _, err := s.Get(t.Context(), "app")
		must(t, err)
		synced := 0
		for _, call := range sys.calls {
			if call == "fsync" {
				synced++
			}
		}
		return synced
	}
	for _, age := range []time.Duration{time.Hour, 2 * time.Hour} {
		_, rev, err := other.Get(t.Context(), "app")
		if err == nil {
			must(t, other.Delete(t.Context(), "app", rev))
		}
		must(t, other.Create(t.Context(), "app", []byte("record")))
		if n := get(); n != 1 {
			t.Errorf("after a change: %d fsync calls, want 1", n)
		}
		if n := get(); n != 1 {
			t.Errorf("within the grain of time: %d fsync calls, want 1", n)
		}
		old := time.Now().Add(-age)
		must(t, os.Chtimes(cfg.Path, old, old))
		if n := get(); n != 1 {
			t.Errorf("first time it has settled: %d fsync calls, want 1", n)
		}
		if n := get(); n != 0 {
			t.Errorf("settled: %d fsync calls, want none", n)
		}
		want := []string{"stat", "fstatat", "openat", "fstat", "read", "close", "fstat"}
		if !slices.Equal(sys.calls, want) {
			t.Errorf("settled: calls %v, want %v", sys.calls, want)
		}
	}
}

// TestLockHeld: while another process holds the lock, as one that was stopped
// would, changes wait as long as their context and reads and creates go on.
func TestLockHeld(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "store")}
	must(t, Init(cfg, testIdentity))
	s, err := Open(cfg, testIdentity)
	must(t, err)
	defer s.Close()
	must(t, s.Create(t.Context(), "app", oldRecord))
	_, rev, err := s.Get(t.Context(), "app")
	must(t, err)
	holder, err := os.Open(filepath.Join(cfg.Path, identityFile))
	must(t, err)
	must(t, unix.Flock(int(holder.Fd()), unix.LOCK_EX))

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for call, err := range map[string]error{
		"update": s.Update(ctx, "app", newRecord, rev),
		"delete": s.Delete(ctx, "app", rev),
	} {
		if !errors.Is(err, keystore.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want ErrUnavailable and DeadlineExceeded", call, err)
		}
	}
	must(t, s.Create(t.Context(), "other", otherRecord))
	if got := state(t, s); !same(got, oldRecord) {
		t.Fatalf("the record is %.40q", got)
	}
	must(t, holder.Close())
	must(t, s.Update(t.Context(), "app", newRecord, rev))
	if left, _ := filepath.Glob(filepath.Join(cfg.Path, tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}
