package fs

import (
	"time"

	"golang.org/x/sys/unix"
)

// settleAge is how long a directory must have been unchanged before its time of
// change proves that nothing changed since: times have the grain of a clock
// tick, and a server's clock may differ from ours.
const settleAge = 2 * time.Second

// settle makes durable what a read has seen. A record is visible from link or
// rename on, before its writer has called fsync, and a writer that was killed
// in between never does; a data key made under a record that a power cut takes
// away again would be lost. So when the directory has changed since the last
// fsync here, there is one more before the record is used.
func (s *Store) settle(d *dir) error {
	var st unix.Stat_t
	if err := again(func() error { return s.sys.fstat(d.fd, &st) }); err != nil {
		return classify("fstat directory", err)
	}
	if last := d.settled.Load(); last != nil && *last == st.Mtim {
		return nil
	}
	if err := again(func() error { return s.sys.fsync(d.fd) }); err != nil {
		return unknown("fsync directory", err)
	}
	if time.Since(time.Unix(st.Mtim.Unix())) > settleAge {
		d.settled.Store(&st.Mtim)
	}
	return nil
}
