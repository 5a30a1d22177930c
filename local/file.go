package local

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/newfile"
)

// The file of the root key, mode 0600: a line that says what it is, and the key,
// 32 bytes, as 64 lower-case hex digits, with a newline.
const (
	fileHead = "keygate local root key 1\n"
	fileSize = len(fileHead) + 2*kms.KeySize + 1
)

// Init makes the root key, durably, and tells whether it did: a root key that is
// there is left as it is. No file is ever overwritten, and one that is no root
// key is an error. The directory must exist.
func Init(cfg Config) (made bool, err error) {
	if err := cfg.Check(); err != nil {
		return false, err
	}
	text, err := newKeyFile()
	if err != nil {
		return false, fmt.Errorf("local: init: %w", err)
	}
	defer clear(text)
	err = newfile.Create(cfg.File, text)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return false, fmt.Errorf("local: init: %w", err)
	}
	key, readErr := readKey(cfg.File)
	if readErr != nil {
		return false, fmt.Errorf("local: init: %w", readErr)
	}
	clear(key)
	return err == nil, nil
}

func newKeyFile() ([]byte, error) {
	key := make([]byte, kms.KeySize)
	defer clear(key)
	rand.Read(key) // never fails: crypto/rand
	text := make([]byte, 0, fileSize)
	text = append(text, fileHead...)
	text = hex.AppendEncode(text, key)
	return append(text, '\n'), nil
}

// readKey returns the key in a file of Init, for the caller to wipe.
func readKey(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := checkOwner(f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	text := make([]byte, fileSize+1)
	defer clear(text)
	n, err := io.ReadFull(f, text)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	key, err := parseKey(text[:n])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func parseKey(text []byte) ([]byte, error) {
	if len(text) != fileSize || string(text[:len(fileHead)]) != fileHead || text[fileSize-1] != '\n' {
		return nil, errors.New("it is no root key that keygate root init made, or not all of it")
	}
	key := make([]byte, kms.KeySize)
	if _, err := hex.Decode(key, text[len(fileHead):fileSize-1]); err != nil {
		clear(key)
		return nil, errors.New("the root key is damaged: not hex digits") // without the digit
	}
	return key, nil
}

// checkOwner refuses a file that is not a regular one of this user's, for this
// user alone.
func checkOwner(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("others may use it (mode %04o): chmod 0600 it, and if others could read it, its keys are not secret any more", perm)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, not to %d, who runs this", st.Uid, os.Geteuid())
	}
	return nil
}
