package awskms

import (
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/keygate/keygate/awsapi"
	keygate "github.com/keygate/keygate/kms"
)

// An Error is a call of KMS that failed. It wraps its cause and the error of
// package kms that the answer means.
type Error struct {
	Operation string // "Decrypt"
	Cause     error
}

func (e *Error) Error() string {
	if code := awsapi.Code(e.Cause); code != "" {
		return fmt.Sprintf("awskms: %s: %s: %s", e.Operation, code, message(e.Cause))
	}
	return fmt.Sprintf("awskms: %s: %v", e.Operation, e.Cause)
}

// Unwrap returns the error of package kms, and the cause.
func (e *Error) Unwrap() []error { return []error{meaning(e.Cause), e.Cause} }

// message returns what KMS says to an error, on one line.
func message(err error) string {
	e, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return err.Error()
	}
	return strings.Join(strings.Fields(e.ErrorMessage()), " ")
}

// meaning says what an answer means to package kms. What is not here is
// ErrUnavailable, and nothing is "no such key": a KMS key that is not found is a
// wrong configuration or the loss of all keys, not the absence of one.
//
// A key that was disabled, or is pending deletion, is ErrDenied: somebody wants it
// not to be used, and ErrUnavailable would have branch keys go on for
// kms.Config.Outage. Other states are passing ones (a custom key store that is
// disconnected, a key that is being made).
func meaning(err error) error {
	switch awsapi.Code(err) {
	case "InvalidCiphertextException", "IncorrectKeyException": // the second: of another key, as Decrypt is given one
		return keygate.ErrCiphertext
	case "DisabledException":
		return keygate.ErrDenied
	case "KMSInvalidStateException":
		if strings.Contains(message(err), "pending deletion") {
			return keygate.ErrDenied
		}
		return keygate.ErrUnavailable
	}
	if awsapi.Denied(err) {
		return keygate.ErrDenied
	}
	return keygate.ErrUnavailable
}

// code reports whether err is the answer of KMS with that code.
func code(err error, code string) bool { return awsapi.Code(err) == code }

// pendingDeletion reports whether KMS has refused a call as the key is to be
// deleted.
func pendingDeletion(err error) bool {
	return code(err, "KMSInvalidStateException") && strings.Contains(message(err), "pending deletion")
}
