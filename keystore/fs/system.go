package fs

import (
	"golang.org/x/sys/unix"
)

// A system is the part of the kernel that a store calls. Tests replace it to
// make each call fail, or to end the process before or after it.
type system interface {
	mkdir(path string) error
	stat(path string, st *unix.Stat_t) error
	openat(dir int, name string, flags int, mode uint32) (int, error)
	fstat(fd int, st *unix.Stat_t) error
	fstatat(dir int, name string, st *unix.Stat_t) error // does not follow a symbolic link
	fstatfs(fd int, st *unix.Statfs_t) error
	inotify(dir int) (int, error) // ENOSYS: there is none
	read(fd int, p []byte) (int, error)
	write(fd int, p []byte) (int, error)
	fchmod(fd int, mode uint32) error
	fsync(fd int) error
	close(fd int) error
	linkat(dir int, from, to string) error
	renameat(dir int, from, to string) error
	unlinkat(dir int, name string) error
	flock(fd int, how int) error
	readDirent(fd int, buf []byte) (int, error)
}

// kernel is the system of every store outside of tests.
type kernel struct{}

func (kernel) mkdir(path string) error { return unix.Mkdir(path, 0o700) }

func (kernel) stat(path string, st *unix.Stat_t) error { return unix.Stat(path, st) }

func (kernel) openat(dir int, name string, flags int, mode uint32) (int, error) {
	return unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
}

func (kernel) fstat(fd int, st *unix.Stat_t) error { return unix.Fstat(fd, st) }

func (kernel) fstatat(dir int, name string, st *unix.Stat_t) error {
	return unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW)
}

func (kernel) fstatfs(fd int, st *unix.Statfs_t) error { return unix.Fstatfs(fd, st) }

func (kernel) read(fd int, p []byte) (int, error)      { return unix.Read(fd, p) }
func (kernel) write(fd int, p []byte) (int, error)     { return unix.Write(fd, p) }
func (kernel) fchmod(fd int, mode uint32) error        { return unix.Fchmod(fd, mode) }
func (kernel) fsync(fd int) error                      { return unix.Fsync(fd) }
func (kernel) close(fd int) error                      { return unix.Close(fd) }
func (kernel) linkat(dir int, from, to string) error   { return unix.Linkat(dir, from, dir, to, 0) }
func (kernel) renameat(dir int, from, to string) error { return unix.Renameat(dir, from, dir, to) }
func (kernel) unlinkat(dir int, name string) error     { return unix.Unlinkat(dir, name, 0) }
func (kernel) flock(fd int, how int) error             { return unix.Flock(fd, how) }

func (kernel) readDirent(fd int, buf []byte) (int, error) { return unix.ReadDirent(fd, buf) }

// again repeats call while a signal interrupts it. It is not for close, whose
// descriptor is gone on Linux also when close was interrupted (close(2)).
func again(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// again1 is again for calls that also return a number.
func again1(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}
