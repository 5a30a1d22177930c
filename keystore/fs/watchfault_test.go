package fs

import (
	"cmp"
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// A stranger is a kernel with another file system, or one that fails or hangs.
type stranger struct {
	kernel
	kind      uint32 // of the file system; 0: ext4, so that tests run on any
	noInotify error
	hang      atomic.Pointer[chan struct{}] // stat waits for it to be closed
	closed    atomic.Int64                  // how many descriptors were closed
}

func (k *stranger) fstatfs(fd int, st *unix.Statfs_t) error {
	err := k.kernel.fstatfs(fd, st)
	setType(&st.Type, cmp.Or(k.kind, unix.EXT4_SUPER_MAGIC))
	return err
}

// setType is for a field whose type is not the same on all machines.
func setType[T int32 | uint32 | int64](field *T, kind uint32) { *field = T(kind) }

func (k *stranger) inotify(dir int) (int, error) {
	if k.noInotify != nil {
		return -1, k.noInotify
	}
	return k.kernel.inotify(dir)
}

func (k *stranger) stat(path string, st *unix.Stat_t) error {
	if hang := k.hang.Load(); hang != nil {
		<-*hang
	}
	return k.kernel.stat(path, st)
}

func (k *stranger) close(fd int) error {
	k.closed.Add(1)
	return k.kernel.close(fd)
}

// strange opens a store on sys.
func strange(t *testing.T, sys system) *Store {
	t.Helper()
	cfg := Config{Path: filepath.Join(t.TempDir(), "store")}
	must(t, Init(cfg, testIdentity))
	s, err := open(cfg, testIdentity, sys)
	must(t, err)
	return s
}

// TestNoWatchWhereOthersWriteUnseen: statfs(2) gives the numbers.
func TestNoWatchWhereOthersWriteUnseen(t *testing.T) {
	for name, kind := range map[string]uint32{
		"NFS": 0x6969, "SMB": 0x517b, "SMB2": 0xfe534d42, "CIFS": 0xff534d42, "FUSE": 0x65735546,
		"9p": 0x01021997, "Ceph": 0x00c36400, "AFS": 0x5346414f, "GFS2": 0x01161970, "OCFS2": 0x7461636f,
		"Lustre": 0x0bd00bd0, "GPFS": 0x47504653, "VirtualBox": 0x786f4256, "overlayfs": 0x794c7630,
		"ZFS": 0x2fc12fc1, "unknown": 1,
	} {
		s := strange(t, &stranger{kind: kind})
		err := s.Watch(t.Context(), func(name string) { t.Errorf("told of %q", name) })
		if !errors.Is(err, keystore.ErrNoWatch) {
			t.Errorf("%s: got %v, want ErrNoWatch", name, err)
		}
		must(t, s.Close())
	}
}

func TestNoWatchWithoutInotify(t *testing.T) {
	for _, c := range []struct{ from, want error }{
		{unix.ENOSYS, keystore.ErrNoWatch},
		{unix.ENOENT, keystore.ErrNoWatch},
		{unix.EMFILE, keystore.ErrUnavailable}, // fs.inotify.max_user_instances
		{unix.ENOSPC, keystore.ErrUnavailable}, // fs.inotify.max_user_watches
		{unix.EACCES, keystore.ErrDenied},
	} {
		k := &stranger{noInotify: c.from}
		s := strange(t, k)
		before := k.closed.Load()
		err := s.Watch(t.Context(), func(name string) { t.Errorf("told of %q", name) })
		if !errors.Is(err, c.want) || !errors.Is(err, c.from) {
			t.Errorf("%v: got %v, want %v", c.from, err, c.want)
		}
		must(t, s.Close())
		if n := k.closed.Load() - before; n != 1 {
			t.Errorf("%v: %d descriptors were closed with the store, want 1", c.from, n)
		}
	}
}

// TestWatchEndsWhenItsCheckHangs, and the directory stays open for the check.
func TestWatchEndsWhenItsCheckHangs(t *testing.T) {
	k := new(stranger)
	s := strange(t, k)
	begun, ended := make(chan string, 9), make(chan error, 1)
	go func() { ended <- s.Watch(context.Background(), func(name string) { begun <- name }) }()
	<-begun
	hang := make(chan struct{})
	k.hang.Store(&hang)
	hung := time.Now()
	select {
	case err := <-ended:
		if !errors.Is(err, keystore.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
		t.Logf("ended after %v: %v", time.Since(hung).Round(time.Millisecond), err)
	case <-time.After(keystore.WatchBound):
		t.Fatalf("goes on after %v", keystore.WatchBound)
	}
	before := k.closed.Load()
	must(t, s.Close())
	if k.closed.Load() != before {
		t.Error("the directory was closed under the check that hangs")
	}
	close(hang)
	for end := time.Now().Add(keystore.WatchBound); k.closed.Load() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the directory is open after the check has ended")
		}
	}
}

// TestEventsThatAreCutAreLeftOut: a kernel never cuts one.
func TestEventsThatAreCutAreLeftOut(t *testing.T) {
	s := strange(t, kernel{})
	d, err := s.acquire()
	must(t, err)
	defer s.release(d)
	fd, err := s.sys.inotify(d.fd)
	must(t, err)
	defer unix.Close(fd)
	must(t, s.Create(t.Context(), "app", []byte("record")))
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	must(t, err)
	all := events(buf[:n])
	named := 0
	for _, e := range all {
		if e.file == "app.record" {
			named++
		}
	}
	if named != 1 || len(all) < 3 {
		t.Fatalf("%d events, %d of the record: %+v", len(all), named, all)
	}
	for cut := range n {
		if got := events(buf[:cut]); len(got) >= len(all) {
			t.Fatalf("%d events in %d bytes of %d", len(got), cut, n)
		}
	}
}
