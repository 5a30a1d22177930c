package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/keygate/keygate/hsm"
)

// A refusedPIN is a file that is there once the token has refused the PIN; empty:
// none. By it a supervisor that restarts whatever ends, as Kubernetes does, makes no
// more tries than the one: a few lock a token.
type refusedPIN string

// check returns an error that is hsm.ErrPIN if the token has refused the PIN that is
// in pin now. A file that was replaced since holds another.
func (r refusedPIN) check(pin hsm.PIN) error {
	if r == "" {
		return nil
	}
	if pin.File == "" {
		return errors.New("--pin-refused: only a PIN of root.pkcs11.pin.file can be told from the one before")
	}
	refused, err := os.Stat(string(r))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--pin-refused: %w", err)
	}
	now, err := os.Stat(pin.File)
	if err != nil {
		return fmt.Errorf("root.pkcs11.pin.file: %w", err)
	}
	if now.ModTime().After(refused.ModTime()) {
		return nil
	}
	return fmt.Errorf("%s has not changed since the token refused its PIN, which is not tried again: replace it, or remove %s: %w", pin.File, r, hsm.ErrPIN)
}

// remember takes the error that ended a start, and returns it.
func (r refusedPIN) remember(err error) error {
	if r == "" || !errors.Is(err, hsm.ErrPIN) {
		return err
	}
	return errors.Join(err, os.WriteFile(string(r), nil, 0o600))
}
