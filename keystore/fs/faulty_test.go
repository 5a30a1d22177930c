package fs

import (
	"errors"

	"golang.org/x/sys/unix"
)

// errCrash is what the calls of a process that has "died" return.
var errCrash = errors.New("crashed")

// A fault is what happens at one call.
type fault struct {
	name  string
	err   error // returned, if not nil
	done  bool  // the call is carried out all the same
	again bool  // the same call fails from then on
	dead  bool  // nothing is carried out after it
	short bool  // read and write carry out half
	hook  func()
}

var faults = []fault{
	{name: "EIO", err: unix.EIO},
	{name: "EIO for ever", err: unix.EIO, again: true},
	{name: "EIO though done", err: unix.EIO, done: true},
	{name: "ENOSPC", err: unix.ENOSPC},
	{name: "ENOSPC for ever", err: unix.ENOSPC, again: true},
	{name: "EMFILE", err: unix.EMFILE},
	{name: "ENFILE", err: unix.ENFILE},
	{name: "ENOMEM", err: unix.ENOMEM},
	{name: "EACCES", err: unix.EACCES},
	{name: "EROFS", err: unix.EROFS, again: true},
	{name: "ESTALE", err: unix.ESTALE},
	{name: "EINTR", err: unix.EINTR},
	{name: "short", short: true},
	{name: "crash before", err: errCrash, dead: true},
	{name: "crash after", err: errCrash, dead: true, done: true},
}

// faulty is a kernel with a fault at its call number at, counted from 1 while
// armed. For one goroutine.
type faulty struct {
	fault
	at    int
	armed bool
	calls []string // made while armed
	hit   string   // the call that the fault was at
}

// do carries out call, or the fault.
func (f *faulty) do(name string, call func() error) error {
	if !f.armed {
		return call()
	}
	f.calls = append(f.calls, name)
	switch n := len(f.calls); {
	case n == f.at:
		f.hit = name
		if f.hook != nil {
			f.hook()
		}
	case n > f.at && f.at > 0 && f.dead:
		if name == "close" { // as the kernel does for the dead
			call()
		}
		return errCrash
	case n > f.at && f.again && name == f.hit:
	default:
		return call()
	}
	if f.done || f.err == nil || name == "close" { // close always closes
		if err := call(); err != nil {
			return err
		}
	}
	return f.err
}

func (f *faulty) do1(name string, call func() (int, error)) (n int, err error) {
	n = -1
	err = f.do(name, func() (err error) { n, err = call(); return err })
	if err != nil && n >= 0 && (name == "openat" || name == "inotify") {
		unix.Close(n) // done, but not known to the caller
	}
	if err != nil {
		return -1, err
	}
	return n, nil
}

// half is the part of p that a short call carries out.
func (f *faulty) half(p []byte) []byte {
	if f.armed && f.short && len(f.calls)+1 == f.at {
		return p[:(len(p)+1)/2]
	}
	return p
}

func (f *faulty) mkdir(path string) error {
	return f.do("mkdir", func() error { return kernel{}.mkdir(path) })
}

func (f *faulty) stat(path string, st *unix.Stat_t) error {
	return f.do("stat", func() error { return kernel{}.stat(path, st) })
}

func (f *faulty) openat(dir int, name string, flags int, mode uint32) (int, error) {
	return f.do1("openat", func() (int, error) { return kernel{}.openat(dir, name, flags, mode) })
}

func (f *faulty) fstat(fd int, st *unix.Stat_t) error {
	return f.do("fstat", func() error { return kernel{}.fstat(fd, st) })
}

func (f *faulty) fstatat(dir int, name string, st *unix.Stat_t) error {
	return f.do("fstatat", func() error { return kernel{}.fstatat(dir, name, st) })
}

func (f *faulty) fstatfs(fd int, st *unix.Statfs_t) error {
	return f.do("fstatfs", func() error { return kernel{}.fstatfs(fd, st) })
}

func (f *faulty) inotify(dir int) (int, error) {
	return f.do1("inotify", func() (int, error) { return kernel{}.inotify(dir) })
}

func (f *faulty) read(fd int, p []byte) (int, error) {
	p = f.half(p)
	return f.do1("read", func() (int, error) { return kernel{}.read(fd, p) })
}

func (f *faulty) write(fd int, p []byte) (int, error) {
	p = f.half(p)
	return f.do1("write", func() (int, error) { return kernel{}.write(fd, p) })
}

func (f *faulty) fchmod(fd int, mode uint32) error {
	return f.do("fchmod", func() error { return kernel{}.fchmod(fd, mode) })
}

// fsync does nothing: a fault is no cut of power, and thousands would take long.
func (f *faulty) fsync(int) error {
	return f.do("fsync", func() error { return nil })
}

func (f *faulty) close(fd int) error {
	return f.do("close", func() error { return kernel{}.close(fd) })
}

func (f *faulty) linkat(dir int, from, to string) error {
	return f.do("linkat", func() error { return kernel{}.linkat(dir, from, to) })
}

func (f *faulty) renameat(dir int, from, to string) error {
	return f.do("renameat", func() error { return kernel{}.renameat(dir, from, to) })
}

func (f *faulty) unlinkat(dir int, name string) error {
	return f.do("unlinkat", func() error { return kernel{}.unlinkat(dir, name) })
}

func (f *faulty) flock(fd int, how int) error {
	return f.do("flock", func() error { return kernel{}.flock(fd, how) })
}

func (f *faulty) readDirent(fd int, buf []byte) (int, error) {
	return f.do1("readDirent", func() (int, error) { return kernel{}.readDirent(fd, buf) })
}
