package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// An output is where lines go: a file, or in tests one that fails.
type output struct{ file }

type file interface {
	Write(p []byte) (int, error)
	ReadAt(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	Sync() error
	Close() error
}

// openOutput opens the file of cfg, or standard output.
func openOutput(cfg Config) (output, error) {
	if cfg.File == "" {
		return output{stdout{os.Stdout}}, nil
	}
	f, err := openFile(cfg.File)
	if err != nil {
		return output{}, fmt.Errorf("audit: %w", err)
	}
	if err := endLastLine(f); err != nil {
		f.Close()
		return output{}, fmt.Errorf("audit: %w", err)
	}
	return output{f}, nil
}

// openFile opens a file to append to, or makes it. It does not follow a symbolic
// link and does not wait for the reader of a FIFO.
func openFile(name string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_APPEND | os.O_CREATE | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	f, err := os.OpenFile(name, flags, 0o600) // package os sets O_CLOEXEC
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link: name the file itself", name)
	}
	if err != nil {
		return nil, err
	}
	if err := checkFile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s %w", name, err)
	}
	return f, nil
}

// checkFile refuses what others could write to or what is no log.
func checkFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file (to write to standard output, leave audit.file out)")
	}
	if perm := info.Mode().Perm(); perm&0o033 != 0 || perm&0o100 != 0 {
		return fmt.Errorf("has mode %#o: others may write to it, or it is executable; give it mode 0600", perm)
	}
	return nil
}

// endLastLine ends a line that a process was killed in, so that the next entry
// has one of its own.
func endLastLine(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, info.Size()-1); err != nil || last[0] == '\n' {
		return err
	}
	_, err = f.Write([]byte{'\n'})
	return err
}

// appendLines writes whole lines. If it fails it returns how many bytes of p are
// in the file and stay: those of whole lines, unless the beginning of the next
// one could not be taken back.
func (o output) appendLines(p []byte) (int, error) {
	n, err := o.Write(p)
	if err == nil {
		return n, nil
	}
	whole := bytes.LastIndexByte(p[:n], '\n') + 1
	if o.takeBack(p[whole:n]) {
		return whole, err
	}
	return n, err
}

// takeBack removes tail from the end of the file and reports whether it is gone.
// It removes nothing else: another process may have appended meanwhile.
func (o output) takeBack(tail []byte) bool {
	if len(tail) == 0 {
		return true
	}
	info, err := o.Stat()
	if err != nil {
		return false
	}
	size := info.Size() - int64(len(tail))
	found := make([]byte, len(tail))
	if size < 0 {
		return false
	}
	if _, err := o.ReadAt(found, size); err != nil || !bytes.Equal(found, tail) {
		return false
	}
	return o.Truncate(size) == nil
}

// stdout is standard output: it can be a pipe, from which nothing is taken back,
// and is not ours to close.
type stdout struct{ *os.File }

func (stdout) Truncate(int64) error { return errors.ErrUnsupported }

func (stdout) Close() error { return nil }
