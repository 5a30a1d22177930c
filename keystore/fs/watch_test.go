package fs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/keystore/storetest"
)

// A told is a Watch that runs.
type told struct {
	names chan string
	ended chan error
	stop  context.CancelFunc
}

// watchedDir makes the directory of a store that can be watched: temporary files may
// be on overlayfs.
func watchedDir(t *testing.T, identity string) string {
	t.Helper()
	shm, err := os.MkdirTemp("/dev/shm", "keygate-test-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(shm) })
	for _, parent := range []string{t.TempDir(), shm} {
		cfg := fs.Config{Path: filepath.Join(parent, "store")}
		must(t, fs.Init(cfg, identity))
		s, err := fs.Open(cfg, identity)
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		err = s.Watch(ctx, func(string) { cancel() })
		must(t, s.Close())
		if !errors.Is(err, keystore.ErrNoWatch) {
			return cfg.Path
		}
	}
	cannot(t, "no directory can be watched")
	return ""
}

// watch starts to watch s, and returns when the watch has begun.
func watch(t *testing.T, s *fs.Store) *told {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	w := &told{make(chan string, 1<<16), make(chan error, 1), stop}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.ended <- s.Watch(ctx, func(name string) { w.names <- name })
	}()
	t.Cleanup(func() { stop(); <-done })
	if name := w.next(t); name != "" {
		t.Fatalf("began with %q", name)
	}
	return w
}

// next returns what is told next.
func (w *told) next(t *testing.T) string {
	t.Helper()
	select {
	case name := <-w.names:
		return name
	case err := <-w.ended:
		t.Fatalf("the watch ended: %v", err)
	case <-time.After(keystore.WatchBound):
		t.Fatalf("nothing is told within %v", keystore.WatchBound)
	}
	return ""
}

// end returns the error with which the watch ends, in time.
func (w *told) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-w.ended:
		return err
	case <-time.After(keystore.WatchBound):
		t.Fatalf("the watch goes on after %v", keystore.WatchBound)
		return nil
	}
}

// TestWatchTellsOfWhatPeopleDo: of each way in which a file can be changed that
// is not a gateway's, too.
func TestWatchTellsOfWhatPeopleDo(t *testing.T) {
	for _, c := range []struct {
		name string
		root bool
		edit func(file, other string) error
	}{
		{"written in place", false, func(file, _ string) error { return os.WriteFile(file, []byte("x"), 0o600) }},
		{"appended to", false, func(file, _ string) error {
			f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("x")
			return errors.Join(err, f.Close())
		}},
		{"cut short", false, func(file, _ string) error { return os.Truncate(file, 3) }},
		{"written by way of mmap", false, writeMapped},
		{"moved into place", false, func(file, other string) error { return os.Rename(other, file) }},
		{"exchanged", false, func(file, other string) error {
			return unix.Renameat2(unix.AT_FDCWD, other, unix.AT_FDCWD, file, unix.RENAME_EXCHANGE)
		}},
		{"moved away", false, func(file, other string) error { return os.Rename(file, other) }},
		{"removed", false, func(file, _ string) error { return os.Remove(file) }},
		{"a symbolic link in its place", false, func(file, _ string) error { return errors.Join(os.Remove(file), os.Symlink("x", file)) }},
		{"a directory in its place", false, func(file, _ string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) }},
		{"mode", false, func(file, _ string) error { return os.Chmod(file, 0o644) }},
		{"owner", true, func(file, _ string) error { return os.Chown(file, 12345, -1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root {
				needRoot(t)
			}
			path := watchedDir(t, cluster)
			s := openStore(t, path)
			must(t, s.Create(t.Context(), "App-1", []byte("record")))
			other := filepath.Join(filepath.Dir(path), "other")
			must(t, os.WriteFile(other, []byte("other"), 0o600))
			w := watch(t, s)
			must(t, c.edit(filepath.Join(path, "%app-1.record"), other))
			if name := w.next(t); name != "App-1" {
				t.Errorf("told of %q", name)
			}
		})
	}
}

func writeMapped(file, _ string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	p, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	p[0] ^= 1
	return errors.Join(unix.Munmap(p), f.Close())
}

// TestWatchTellsOfNothingElse: reads, temporary files and updates of others' files
// make no reads of the store.
func TestWatchTellsOfNothingElse(t *testing.T) {
	path := watchedDir(t, cluster)
	s := openStore(t, path)
	must(t, s.Create(t.Context(), "app", []byte("record")))
	w := watch(t, s)
	_, _, err := s.Get(t.Context(), "app")
	must(t, err)
	must(t, s.Status(t.Context()))
	must(t, os.WriteFile(filepath.Join(path, "README"), nil, 0o600))
	must(t, s.Create(t.Context(), "last", []byte("record")))
	if name := w.next(t); name != "last" {
		t.Errorf("told of %q", name)
	}
}

// TestWatchLeavesAFileToBeFinished that is written in place.
func TestWatchLeavesAFileToBeFinished(t *testing.T) {
	const grace = 100 * time.Millisecond
	path := watchedDir(t, cluster)
	s := openStore(t, path)
	must(t, s.Create(t.Context(), "app", []byte("record")))
	w := watch(t, s)
	began := time.Now()
	must(t, os.WriteFile(filepath.Join(path, "app.record"), []byte("x"), 0o600))
	w.next(t)
	if took := time.Since(began); took < grace {
		t.Errorf("told after %v, want %v or more", took, grace)
	}
}

// TestKS19_WatchEnds with the directory, in time, and begins again when it is back.
func TestKS19_WatchEnds(t *testing.T) {
	for _, c := range wrongDirectories {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.root {
				needRoot(t)
			}
			path := watchedDir(t, cluster)
			s := openStore(t, path)
			w := watch(t, s)
			putBack := c.takeAway(t, path)
			wantError(t, "watch", w.end(t), keystore.ErrUnavailable)
			err := s.Watch(t.Context(), func(name string) { t.Errorf("told of %q", name) })
			wantError(t, "watch of another directory", err, keystore.ErrUnavailable)
			putBack()
			w = watch(t, s)
			must(t, s.Create(t.Context(), "app", []byte("record")))
			if name := w.next(t); name != "app" {
				t.Errorf("told of %q", name)
			}
		})
	}
}

// TestKS19_WatchEndsWithItsVolume, whatever happens to that.
func TestKS19_WatchEndsWithItsVolume(t *testing.T) {
	for _, c := range []struct {
		name     string
		takeAway func(volume string) (putBack func() error)
	}{
		{"unmounted lazily", func(volume string) func() error {
			err := unix.Unmount(volume, unix.MNT_DETACH)
			// newVolume unmounts once more.
			return func() error { return errors.Join(err, unix.Mount("tmpfs", volume, "tmpfs", 0, "")) }
		}},
		{"an empty one mounted over it", func(volume string) func() error {
			err := unix.Mount("tmpfs", volume, "tmpfs", 0, "")
			return func() error { return errors.Join(err, unix.Unmount(volume, 0)) }
		}},
		{"a copy bound over it", func(volume string) func() error {
			other := volume + ".copy"
			err := errors.Join(os.CopyFS(other, os.DirFS(volume)), os.Chmod(filepath.Join(other, "store"), 0o700),
				os.Chmod(filepath.Join(other, "store", "identity"), 0o600), unix.Mount(other, volume, "", unix.MS_BIND, ""))
			return func() error { return errors.Join(err, unix.Unmount(volume, 0), os.RemoveAll(other)) }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			volume, s := newVolume(t, "size=1m")
			w := watch(t, s)
			putBack := c.takeAway(volume)
			wantError(t, "watch", w.end(t), keystore.ErrUnavailable)
			must(t, putBack())
		})
	}
}

// TestWatchGoesOnUnderABindMount of the same directory: it is the same store.
func TestWatchGoesOnUnderABindMount(t *testing.T) {
	volume, s := newVolume(t, "size=1m")
	path := filepath.Join(volume, "store")
	w := watch(t, s)
	must(t, unix.Mount(path, path, "", unix.MS_BIND, ""))
	defer func() { must(t, unix.Unmount(path, 0)) }()
	time.Sleep(1500 * time.Millisecond) // a check comes by
	other, err := fs.Open(fs.Config{Path: path}, cluster)
	must(t, err)
	defer other.Close()
	must(t, other.Create(t.Context(), "app", []byte("record")))
	if name := w.next(t); name != "app" {
		t.Errorf("told of %q", name)
	}
}

// TestWatchSaysWhenItHasLostEvents: the kernel's queue is bounded.
func TestWatchSaysWhenItHasLostEvents(t *testing.T) {
	path := watchedDir(t, cluster)
	s := openStore(t, path)
	must(t, s.Create(t.Context(), "app", []byte("record")))
	names, more := make(chan string), make(chan struct{})
	go s.Watch(t.Context(), func(name string) { names <- name; <-more })
	<-names
	file := filepath.Join(path, "app.record")
	for range queueLength(t) { // two events each, and no two alike one after the other
		must(t, os.Rename(file, file+".x"))
		must(t, os.Rename(file+".x", file))
	}
	for seen := 0; ; seen++ {
		more <- struct{}{}
		select {
		case name := <-names:
			if name == "" {
				t.Logf("told that events were lost after %d", seen)
				close(more)
				return
			}
		case <-time.After(keystore.WatchBound):
			t.Fatalf("told of %d events, and not that others were lost", seen)
		}
	}
}

func queueLength(t *testing.T) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	must(t, err)
	_, err = fmt.Sscan(string(text), &n)
	must(t, err)
	return n
}

// TestWatchFollowsProcesses: what is read when a change is told is never behind.
func TestWatchFollowsProcesses(t *testing.T) {
	path := watchedDir(t, cluster)
	s := openStore(t, path)
	var mu sync.Mutex
	cache := map[string]string{}
	begun := make(chan error, 1)
	go func() {
		begun <- s.Watch(t.Context(), func(name string) {
			if name == "" {
				begun <- nil
				return
			}
			record, _, _ := s.Get(context.Background(), name)
			mu.Lock()
			cache[name] = string(record)
			mu.Unlock()
		})
	}()
	must(t, <-begun)
	storetest.RunProcesses(t, s, fs.Config{Path: path}, 100)
	names, err := s.List(t.Context(), "", "", 1000)
	must(t, err)
	if len(names) < 100 {
		t.Fatalf("only %d names", len(names))
	}
	behind := func() (all []string) {
		mu.Lock()
		defer mu.Unlock()
		for _, name := range names {
			if record, _, err := s.Get(t.Context(), name); err != nil || cache[name] != string(record) {
				all = append(all, name)
			}
		}
		return all
	}
	for end := time.Now().Add(keystore.WatchBound); ; time.Sleep(time.Millisecond) {
		late := behind()
		if len(late) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v these are behind: %q", keystore.WatchBound, late)
		}
	}
}

// TestWatchLeavesNothingBehind: no goroutine and no descriptor, however it ends.
func TestWatchLeavesNothingBehind(t *testing.T) {
	path := watchedDir(t, cluster)
	s := openStore(t, path)
	watch(t, s).stop() // what is made once, such as the poller's descriptors, is made
	for end, want := range map[string]func(w *told){
		"context": func(w *told) { w.stop() },
		"directory": func(*told) {
			must(t, os.Rename(path, path+".away"))
			must(t, os.Rename(path+".away", path))
		},
	} {
		descriptors, goroutines := inUse(t)
		for range 30 {
			w := watch(t, s)
			want(w)
			if err := w.end(t); !errors.Is(err, keystore.ErrUnavailable) {
				t.Fatalf("%s: %v", end, err)
			}
			w.stop()
		}
		settled(t, end, descriptors, goroutines)
	}
	descriptors, goroutines := inUse(t)
	for range 10 {
		s, err := fs.Open(fs.Config{Path: path}, cluster)
		must(t, err)
		w := watch(t, s)
		must(t, s.Close())
		wantError(t, "watch", w.end(t), keystore.ErrUnavailable)
	}
	settled(t, "close", descriptors, goroutines)
}

func inUse(t *testing.T) (descriptors, goroutines int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(all), runtime.NumGoroutine()
}

// settled waits until no more is in use than before.
func settled(t *testing.T, end string, descriptors, goroutines int) {
	t.Helper()
	for deadline := time.Now().Add(keystore.WatchBound); ; time.Sleep(time.Millisecond) {
		d, g := inUse(t)
		if d <= descriptors && g <= goroutines {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d descriptors and %d goroutines, before %d and %d", end, d, g, descriptors, goroutines)
		}
	}
}
