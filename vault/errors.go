package vault

import (
	"fmt"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/vault/vaultapi"
)

// failed says which error of package kms a call of the server is that failed.
// What it refused, or does not have, is for the caller to look into first; here
// it is unknown.
func failed(op string, err error) error {
	if vaultapi.Is(err, vaultapi.Denied) {
		return fmt.Errorf("vault: %s: %w: %w", op, kms.ErrDenied, err)
	}
	return fmt.Errorf("vault: %s: %w: %w", op, kms.ErrUnavailable, err)
}

// malformed is for an answer that says something else than it should.
func malformed(op string) error {
	return fmt.Errorf("vault: %s: %w: the answer is malformed", op, kms.ErrUnavailable)
}
