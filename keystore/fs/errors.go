package fs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/keystore"
)

// classify says which error of package keystore a failed call is. A refusal of
// permission is certain; all else, ENOENT too, is unknown here: only the reader
// of a record may conclude that it does not exist.
func classify(call string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %w", keystore.ErrDenied, os.NewSyscallError(call, err))
	}
	return unknown(call, err)
}

// unknown is classify after the step that may have changed the store: whatever
// the kernel says, the change may or may not have happened.
func unknown(call string, err error) error {
	return fmt.Errorf("%w: %w", keystore.ErrUnavailable, os.NewSyscallError(call, err))
}

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrUnavailable}, args...)...)
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrCorrupt}, args...)...)
}

func rights(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrRights}, args...)...)
}
