//go:build !linux

package fs

import "golang.org/x/sys/unix"

// Without inotify no store can be watched.
var watchable map[uint32]bool

func (kernel) inotify(int) (int, error) { return -1, unix.ENOSYS }

func events([]byte) []event { return nil }
