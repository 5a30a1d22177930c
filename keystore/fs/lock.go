package fs

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// How long an update or delete waits for the lock at most. It is held for a
// read and a rename only, so a wait of seconds means a holder that was stopped.
const (
	lockWait     = 10 * time.Second
	lockPollMin  = 100 * time.Microsecond
	lockPollMax  = 5 * time.Millisecond
	lockWaitText = "another process holds the lock of the store"
)

// lock takes the lock that orders updates and deletes of all processes: flock
// on the identity file. The kernel frees it when its holder ends. The file is
// open for writing because NFS demands that of an exclusive lock (flock(2)).
func (s *Store) lock(ctx context.Context, d *dir) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	select { // one waiter of this process at a time
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, unavailable(lockWaitText+": %w", ctx.Err())
	}
	fd, err := s.flock(ctx, d)
	if err != nil {
		<-s.turn
		return nil, err
	}
	return func() {
		s.sys.close(fd)
		<-s.turn
	}, nil
}

// flock returns a descriptor that holds the lock until it is closed.
func (s *Store) flock(ctx context.Context, d *dir) (int, error) {
	fd, err := again1(func() (int, error) {
		return s.sys.openat(d.fd, identityFile, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return -1, classify("open lock", err)
	}
	if err := s.waitLock(ctx, d, fd); err != nil {
		s.sys.close(fd)
		return -1, err
	}
	return fd, nil
}

func (s *Store) waitLock(ctx context.Context, d *dir, fd int) error {
	for pause := lockPollMin; ; pause = min(2*pause, lockPollMax) {
		err := again(func() error { return s.sys.flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
		if err == nil {
			return s.checkLock(d, fd)
		}
		if err != unix.EWOULDBLOCK {
			return classify("flock", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return unavailable(lockWaitText+": %w", ctx.Err())
		}
	}
}

// checkLock refuses the lock of a file that is no more the identity file: it
// would exclude nobody.
func (s *Store) checkLock(d *dir, fd int) error {
	var st unix.Stat_t
	if err := again(func() error { return s.sys.fstat(fd, &st) }); err != nil {
		return classify("fstat lock", err)
	}
	if regularID(&st) != d.identity {
		return unavailable("the identity file was replaced")
	}
	return nil
}
