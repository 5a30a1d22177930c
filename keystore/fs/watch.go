package fs

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

const (
	// checkEvery is how often a watch looks whether its directory is the store's.
	checkEvery = time.Second
	// checkAge is for how long such a check is believed. The rest of
	// keystore.WatchBound is for a machine that is busy.
	checkAge   = 2500 * time.Millisecond
	checkGrace = 100 * time.Millisecond // for a check to end when the watch does
	// inPlaceGrace is how long a file that is being written in place, as no gateway
	// does and cp(1) may, is left to be finished before it is told of: read in the
	// middle it would be an alarm.
	inPlaceGrace = 100 * time.Millisecond
)

// Watch tells of changes; see keystore.Store. The kernel queues an event before the
// call that changes the directory returns, whichever process made the call, so that
// an empty queue is proof. That holds where all changes go through this kernel: on a
// file system that is not known to be so, Watch returns keystore.ErrNoWatch.
//
// Another directory in the place of this one makes no event. A check each second
// sees it, and ends the watch also when the check itself hangs. Not told of is what
// is written to a record through a hard link in another directory, or by way of
// mmap(2) until the file is closed (inotify(7)); no gateway does either.
func (s *Store) Watch(ctx context.Context, changed func(name string)) error {
	if err := s.watch(ctx, changed); err != nil {
		return fmt.Errorf("fs: watch: %w", err)
	}
	return nil
}

func (s *Store) watch(parent context.Context, changed func(name string)) error {
	if err := keystore.CheckAlive(parent); err != nil {
		return err
	}
	checked := time.Now()
	d, err := s.acquire()
	if err != nil {
		return err
	}
	queue, err := s.notify(d)
	if err != nil {
		s.release(d)
		return err
	}
	defer queue.Close()
	ctx, end := context.WithCancelCause(parent)
	guarded := make(chan struct{})
	go func() {
		defer close(guarded)
		s.guard(ctx, end, d, checked)
	}()
	defer await(guarded)
	defer end(nil)
	// A deadline that has passed wakes the read that waits, and all later ones.
	defer context.AfterFunc(ctx, func() { queue.SetReadDeadline(time.Unix(1, 0)) })()
	changed("")
	err = follow(ctx, queue, changed)
	if keystore.CheckAlive(parent) != nil {
		return keystore.CheckAlive(parent)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// notify returns the queue of the directory's events.
func (s *Store) notify(d *dir) (*os.File, error) {
	var st unix.Statfs_t
	if err := again(func() error { return s.sys.fstatfs(d.fd, &st) }); err != nil {
		return nil, classify("fstatfs", err)
	}
	if kind := uint32(st.Type); !watchable[kind] {
		return nil, fmt.Errorf("%w: it is on a file system of type %#x", keystore.ErrNoWatch, kind)
	}
	fd, err := again1(func() (int, error) { return s.sys.inotify(d.fd) })
	if err == unix.ENOSYS || err == unix.ENOENT { // no inotify, no /proc
		return nil, fmt.Errorf("%w: %w", keystore.ErrNoWatch, os.NewSyscallError("inotify", err))
	}
	if err != nil {
		return nil, classify("inotify", err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// await waits for the guard, which has been told to end, so that the directory is
// closed when the store is; but not for one that hangs.
func await(guarded <-chan struct{}) {
	select {
	case <-guarded:
	case <-time.After(checkGrace):
	}
}

// guard ends a watch when d, last checked at checked, is no longer the directory of
// the store, or nothing says that it is. It releases d, maybe after the end of the
// watch: a check may hang.
func (s *Store) guard(ctx context.Context, end context.CancelCauseFunc, d *dir, checked time.Time) {
	defer s.release(d)
	late := time.AfterFunc(time.Until(checked.Add(checkAge)), func() {
		end(unavailable("the directory could not be looked at for %v", checkAge))
	})
	defer late.Stop()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.ended:
			end(unavailable("store is closed"))
			return
		case <-tick.C:
		}
		checked := time.Now()
		if err := s.verify(d); err != nil {
			end(err)
			return
		}
		late.Reset(time.Until(checked.Add(checkAge)))
	}
}

// An event is what the kernel tells of.
type event struct {
	file    string // in the directory
	inPlace bool   // the file was written to, maybe not for the last time
	lost    bool   // events before this one were lost: the queue was full
	gone    bool   // the directory was moved, removed or unmounted: there are no more
}

// follow tells of the events in the queue until ctx ends.
func follow(ctx context.Context, queue *os.File, changed func(name string)) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := queue.Read(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return unknown("inotify", err)
		}
		if err := tell(ctx, events(buf[:n]), changed); err != nil {
			return err
		}
	}
}

// tell tells of some events.
func tell(ctx context.Context, all []event, changed func(name string)) error {
	waited := false
	for _, e := range all {
		name, isRecord := recordName(e.file)
		switch {
		case e.gone:
			return unavailable("the directory was moved, removed or unmounted")
		case e.lost:
			changed("")
		case isRecord:
			if e.inPlace && !waited {
				wait(ctx, inPlaceGrace)
				waited = true
			}
			changed(name)
		}
	}
	return nil
}

// wait waits, until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}
