package etcd

import (
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keygate/keygate/keystore"
)

// denials are the refusals of etcd that are not codes.PermissionDenied.
var denials = []error{rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrUserNotFound, rpctypes.ErrRoleNotFound, rpctypes.ErrPermissionDenied}

// classify says which error of package keystore a failed call is. A refusal is
// certain; all else is unknown. That something does not exist is never concluded
// from an error.
func classify(call string, err error) error {
	if err == nil {
		return nil
	}
	class := keystore.ErrUnavailable
	if denied(err) {
		class = keystore.ErrDenied
	}
	return fmt.Errorf("%w: %s: %w", class, call, err)
}

func denied(err error) bool {
	if code := status.Code(err); code == codes.PermissionDenied || code == codes.Unauthenticated {
		return true
	}
	err = rpctypes.Error(err)
	for _, denial := range denials {
		if errors.Is(err, denial) {
			return true
		}
	}
	return false
}

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrUnavailable}, args...)...)
}
