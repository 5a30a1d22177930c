package hsm

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"

	"github.com/keygate/keygate/kms"
)

// marks are the errors that others look for, with errors.Is, in what an op, a login
// or the opening of a token returns. An error goes to another process as its text, the
// marks that it wraps and the *Error that it wraps; the numbers of the marks are their
// places here. A test sees that no error of this package is missing.
var marks = []error{
	kms.ErrKeyNotFound, kms.ErrKeyExists, kms.ErrPendingDeletion, kms.ErrName, kms.ErrCiphertext, kms.ErrExhausted, kms.ErrNoMAC,
	kms.ErrKeySize, kms.ErrCorrupt, kms.ErrUnsupported, kms.ErrDenied, kms.ErrUnavailable,
	context.Canceled, context.DeadlineExceeded,
	ErrPIN, ErrPINAtRisk, ErrTokenExists, errNeedless, errRefused, errDoubted, errUnanswered, errWrong, errAnother,
	errInOneToken, errNoObject, errShowsNothing, errBegun, errLeftovers,
	errQueueFull, errBusy, errStalled, errClosed, errHung, errStale, errConnecting, errCrashed, errFrame,
	errNoToken, errAnothers, ErrNoKey, errWeakKey, errWrongSignature, ErrStatement, errTurn,
}

// maxErrorText bounds the text of an error in a frame.
const maxErrorText = 16 << 10

// appendError appends err, or nothing if it is nil:
//
//	8  marks, one bit each
//	1  bit 0: it wraps a *notFoundError; bit 1: what the *Error is about was done before
//	8  code of the *Error
//	function of the *Error, nil if there is none; text; each with its size
func appendError(b []byte, err error) []byte {
	if err == nil {
		return b
	}
	var wraps uint64
	for i, mark := range marks {
		if errors.Is(err, mark) {
			wraps |= 1 << i
		}
	}
	flags := byte(0)
	if _, is := errors.AsType[*notFoundError](err); is {
		flags |= 1
	}
	var function []byte
	var code uint64
	if e, is := errors.AsType[*Error](err); is {
		function, code = []byte(e.Function), uint64(e.Code)
		if e.known {
			flags |= 2
		}
	}
	text := err.Error()
	b = binary.BigEndian.AppendUint64(b, wraps)
	b = append(b, flags)
	b = binary.BigEndian.AppendUint64(b, code)
	b = appendBytes(b, function)
	return appendBytes(b, []byte(text[:min(len(text), maxErrorText)]))
}

// parseError returns the error that appendError wrote, or nil, and an error if it is
// none.
func parseError(body []byte) (remote, err error) {
	if len(body) == 0 {
		return nil, nil
	}
	r := reading{b: body}
	wraps, flags, code := r.uint64(), r.uint8(), r.uint64()
	function, text := r.bytes(), r.bytes()
	if err := r.end("an error"); err != nil {
		return nil, err
	}
	e := &remoteError{text: strings.ToValidUTF8(string(text), "?")}
	if function != nil {
		e.wraps = append(e.wraps, &Error{Function: string(function), Code: uint(code), known: flags&2 != 0})
	}
	if flags&1 != 0 {
		e.wraps = append(e.wraps, &notFoundError{text: strings.TrimPrefix(e.text, "hsm: ")})
	}
	for i, mark := range marks {
		if wraps&(1<<i) != 0 {
			e.wraps = append(e.wraps, mark)
		}
	}
	return e, nil
}

// A remoteError is an error of another process.
type remoteError struct {
	text  string
	wraps []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.wraps }
