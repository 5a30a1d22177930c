package hsm

import (
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/keygate/keygate/kms"
)

// What a worker has found to be a fault of its token is no unsupported request for
// the gateway.
func TestHS01_AFaultStaysOneOnItsWayFromAWorker(t *testing.T) {
	for _, known := range []bool{false, true} {
		var err error = &Error{Function: "C_Encrypt", Code: pkcs11.CKR_ARGUMENTS_BAD}
		if known {
			err = askedBefore(err)
		}
		remote, bad := parseError(appendError(nil, err))
		if bad != nil {
			t.Fatal(bad)
		}
		if errors.Is(remote, kms.ErrUnavailable) != known || errors.Is(remote, kms.ErrUnsupported) == known || repairable(remote) != known {
			t.Errorf("known before: %v: the gateway has %v", known, remote)
		}
	}
}
