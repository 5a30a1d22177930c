package secretsmanager

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/keygate/keygate/awsapi"
	"github.com/keygate/keygate/keystore"
)

// An Error is a call of Secrets Manager that failed. It wraps its cause and
// keystore.ErrDenied or keystore.ErrUnavailable: that there is no such secret is
// not yet the proof that there is no such record.
type Error struct {
	Operation string // "GetSecretValue"
	Cause     error
}

func (e *Error) Error() string {
	if api, ok := errors.AsType[smithy.APIError](e.Cause); ok {
		return fmt.Sprintf("%s: %s: %s", e.Operation, api.ErrorCode(), strings.Join(strings.Fields(api.ErrorMessage()), " "))
	}
	return fmt.Sprintf("%s: %v", e.Operation, e.Cause)
}

// Unwrap returns the error of package keystore, and the cause.
func (e *Error) Unwrap() []error {
	if awsapi.Denied(e.Cause) {
		return []error{keystore.ErrDenied, e.Cause}
	}
	return []error{keystore.ErrUnavailable, e.Cause}
}

// do makes one call of the API, and again where again says so.
func (s *Store) do(ctx context.Context, operation string, again func(error) bool, f func(context.Context) error) error {
	if err := s.caller.Do(ctx, again, f); err != nil {
		return &Error{Operation: operation, Cause: err}
	}
	return nil
}

// code returns the code of the answer of Secrets Manager in err, or "".
func code(err error) string { return awsapi.Code(err) }

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrUnavailable}, args...)...)
}

func wrap(call string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("secretsmanager: %s: %w", call, err)
}
