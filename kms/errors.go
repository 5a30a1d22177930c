package kms

import (
	"errors"
	"fmt"

	"github.com/keygate/keygate/keystore"
)

// storeErrors says what each answer of a store means for a key. What is not in
// it is ErrUnavailable.
var storeErrors = []struct{ store, kms error }{
	{keystore.ErrNotFound, ErrKeyNotFound},
	{keystore.ErrExists, ErrKeyExists},
	{keystore.ErrName, ErrName},
	{keystore.ErrDenied, ErrDenied},
	{keystore.ErrCorrupt, ErrCorrupt},
}

// storeError returns err as an error of this package. A conflict is left as it
// is, for the caller that reads again and decides anew.
func storeError(err error) error {
	if errors.Is(err, keystore.ErrConflict) {
		return err
	}
	for _, e := range storeErrors {
		if errors.Is(err, e.store) {
			return fmt.Errorf("%w: %w", e.kms, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// unavailable returns err as ErrUnavailable, unless it is an alarm: after a
// write, any other failure means that its outcome is not known.
func unavailable(operation string, err error) error {
	if errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return fmt.Errorf("%w: %s: %v", ErrUnavailable, operation, err)
}
