package fs

import (
	"encoding/binary"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// watchable are the file systems, by statfs(2), on which all that changes a
// directory goes through this kernel. Others are not, or are not known to be:
//   - NFS, CIFS, Ceph, 9p, FUSE and what is built on it: other machines, or the
//     host of this one, write unseen (inotify(7), BUGS);
//   - overlayfs: what is written to its layers elsewhere is not seen;
//   - ZFS: zfs rollback changes files under a mounted file system unseen.
var watchable = map[uint32]bool{
	unix.EXT4_SUPER_MAGIC:  true, // and ext2, ext3
	unix.XFS_SUPER_MAGIC:   true,
	unix.BTRFS_SUPER_MAGIC: true,
	unix.TMPFS_MAGIC:       true,
}

const (
	// Create is IN_CREATE (link), update IN_MOVED_TO, delete IN_DELETE. The others
	// are what only people do.
	watched = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE |
		unix.IN_MOVED_FROM | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_ATTRIB |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
	watchEnds = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_UNMOUNT | unix.IN_IGNORED
)

// inotify returns a queue that does not block. The directory is found by its
// descriptor: what is at its path may be another by now.
func (kernel) inotify(dir int) (int, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return -1, err
	}
	if _, err := unix.InotifyAddWatch(fd, "/proc/self/fd/"+strconv.Itoa(dir), watched); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// events reads what the kernel returns, which is whole events only: 4 bytes
// descriptor, 4 mask, 4 cookie, 4 length of the name, which is padded with zeros.
func events(b []byte) (all []event) {
	for len(b) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if end > len(b) {
			break
		}
		all = append(all, event{
			file:    strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00"),
			inPlace: mask&unix.IN_MODIFY != 0,
			lost:    mask&unix.IN_Q_OVERFLOW != 0,
			gone:    mask&watchEnds != 0,
		})
		b = b[end:]
	}
	return all
}
