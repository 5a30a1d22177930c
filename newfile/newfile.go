// Package newfile puts files in place whole and durable: those of root keys, which may be
// there once only, and small ones that are replaced. Standard library only.
package newfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Create puts a file, of mode 0600, in place, whole and durable, or not at all: a crash
// leaves no part of it under its name. A file that is there is fs.ErrExist, and stays.
func Create(path string, text []byte) error { return put(path, text, os.Link) }

// Replace is Create in the place of a file that may be there.
func Replace(path string, text []byte) error { return put(path, text, os.Rename) }

func put(path string, text []byte, place func(from, to string) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".keygate-new-*") // mode 0600, O_EXCL
	if err != nil {
		return err
	}
	defer func() {
		gone := os.Remove(f.Name())
		if errors.Is(gone, os.ErrNotExist) { // it was renamed
			gone = nil
		}
		err = errors.Join(err, f.Close(), gone)
	}()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := place(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
