package fs

import (
	"crypto/rand"
	"time"

	"golang.org/x/sys/unix"
)

// staleAfter is the age at which a temporary file belongs to no call any more.
const staleAfter = time.Hour

// writeTemp writes content to a new temporary file, durably, and returns its
// name. On error nothing is left, if it can be removed.
func (s *Store) writeTemp(d *dir, content []byte) (string, error) {
	temp := tempPrefix + rand.Text()
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	fd, err := again1(func() (int, error) { return s.sys.openat(d.fd, temp, flags, 0o600) })
	if err != nil {
		s.removeTemp(d, temp) // 130 random bits: if it is there, this call made it
		return "", classify("open "+temp, err)
	}
	err = s.writeAll(fd, content)
	if err == nil {
		err = classify("fsync", again(func() error { return s.sys.fsync(fd) }))
	}
	// Some file systems report a failed write at close only: close(2).
	if cerr := s.sys.close(fd); err == nil && cerr != unix.EINTR {
		err = classify("close", cerr)
	}
	if err != nil {
		s.removeTemp(d, temp)
		return "", err
	}
	return temp, nil
}

func (s *Store) writeAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := again1(func() (int, error) { return s.sys.write(fd, p) })
		if err != nil {
			return classify("write", err)
		}
		if n == 0 {
			return unavailable("write: no progress")
		}
		p = p[n:]
	}
	return nil
}

// removeTemp removes a temporary file of this call. One that stays is ignored
// by all, and swept when it is old.
func (s *Store) removeTemp(d *dir, temp string) {
	again(func() error { return s.sys.unlinkat(d.fd, temp) })
}

// sweep removes the temporary files that calls cut short have left an hour ago
// or more. If it takes one from a call that still runs, as after a leap of the
// clock, that call fails and changes nothing.
func (s *Store) sweep(d *dir) error {
	old := time.Now().Add(-staleAfter)
	return s.each(d, func(file string) {
		var st unix.Stat_t
		if isTemp(file) && s.sys.fstatat(d.fd, file, &st) == nil && time.Unix(st.Mtim.Unix()).Before(old) {
			s.removeTemp(d, file)
		}
	})
}

// sweepDue sweeps if that was not done for an hour.
func (s *Store) sweepDue(d *dir) error {
	last, now := s.swept.Load(), time.Now().UnixNano()
	if now-last < int64(staleAfter) || !s.swept.CompareAndSwap(last, now) {
		return nil
	}
	return s.sweep(d)
}
