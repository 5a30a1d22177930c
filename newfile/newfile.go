// Package newfile writes files that may be there once only: those of root keys.
// Standard library only.
package newfile

import (
	"errors"
	"os"
	"path/filepath"
)

// Create puts a file, of mode 0600, in place, whole and durable, or not at all: a crash
// leaves no part of it under its name. A file that is there is fs.ErrExist, and stays.
func Create(path string, text []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".keygate-new-*") // mode 0600, O_EXCL
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
