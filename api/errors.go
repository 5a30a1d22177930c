package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/kms"
)

// An Error is an answer that is not a success. Clients of KES compare status
// and text, so both are part of the contract.
type Error struct {
	Status  int    // HTTP status
	Message string // what the client reads; never a secret
}

// The errors of the API itself.
var (
	// ErrNotAllowed is the one answer for identities that are unknown and for
	// requests that no rule allows.
	ErrNotAllowed = &Error{http.StatusForbidden, "not authorized: insufficient permissions"}
	// ErrPolicyNotFound says that the configuration has no such policy.
	ErrPolicyNotFound = &Error{http.StatusNotFound, "policy does not exist"}
	// ErrIdentityNotFound says that the configuration has no such identity.
	ErrIdentityNotFound = &Error{http.StatusNotFound, "identity does not exist"}
	// ErrBody says that the body is too large, not JSON or of other types.
	ErrBody = &Error{http.StatusBadRequest, "invalid request body"}
	// ErrImportBody is ErrBody for an import.
	ErrImportBody = &Error{http.StatusBadRequest, "invalid import key request body"}
	// ErrBatch says that a batch has more than kms.MaxBatch items.
	ErrBatch = &Error{http.StatusBadRequest, "too many items"}
	// ErrBulk says that a bulk decryption has more than MaxBulk ciphertexts.
	ErrBulk = &Error{http.StatusBadRequest, "too many ciphertexts"}
	// ErrMode says that a mode is none of those that there are.
	ErrMode = &Error{http.StatusBadRequest, "mode is none of direct, branch and default"}
	// ErrNonce says that the nonce of an attestation is malformed.
	ErrNonce = &Error{http.StatusBadRequest, "nonce is not up to 64 bytes in hex digits"}
	// ErrNoAttestation says that the root of trust is no HSM, or has no key to sign
	// attestations with.
	ErrNoAttestation = &Error{http.StatusNotImplemented, "root of trust signs no attestation"}
	// ErrNotImplemented says that there is no such route.
	ErrNotImplemented = &Error{http.StatusNotImplemented, "not implemented"}
	// ErrOverload says that the request was not begun, as it could not be in time.
	ErrOverload = &Error{http.StatusServiceUnavailable, "server is overloaded"}
	// ErrRate says that the identity has used up its rate of requests. Nothing was
	// begun.
	ErrRate = &Error{http.StatusTooManyRequests, "too many requests"}
	// ErrAuditUnavailable says that the operation was not done, or its result
	// was dropped, because it could not be written down.
	ErrAuditUnavailable = &Error{http.StatusServiceUnavailable, "audit log is unavailable"}
	// ErrInternal is the answer for what is in no table. It tells nothing.
	ErrInternal = &Error{http.StatusInternalServerError, "internal error"}
)

// A row of the table. An error that is one of errs is answered with status and
// text; a client takes that answer for each of errs and also. In an open row the
// details follow the text, and end follows them.
type row struct {
	status int
	text   string
	open   bool
	end    string
	errs   []error
	also   []error
}

// table is searched from the top. What is unsure comes first, so that it is
// never answered as something that is known: a client that is told that a key
// does not exist makes a new one, and the data under the old one is lost.
// 503 means "try again" to KES clients, and 501 "never".
var table = []row{
	{
		status: http.StatusInternalServerError, text: "key record is corrupt: its file has a wrong owner or mode",
		errs: []error{keystore.ErrRights}, also: []error{kms.ErrCorrupt, keystore.ErrCorrupt},
	},
	{status: http.StatusInternalServerError, text: "key record is corrupt", errs: []error{kms.ErrCorrupt, keystore.ErrCorrupt}},
	{status: http.StatusServiceUnavailable, text: "key store is unavailable", errs: []error{keystore.ErrUnavailable}, also: []error{kms.ErrUnavailable}},
	{status: http.StatusServiceUnavailable, text: "root of trust or key store is unavailable", errs: []error{kms.ErrUnavailable}},
	{status: http.StatusServiceUnavailable, text: "operation timed out", errs: []error{context.DeadlineExceeded, context.Canceled}},
	{status: http.StatusServiceUnavailable, text: "key was changed at the same time", errs: []error{keystore.ErrConflict}},
	{status: http.StatusServiceUnavailable, text: "access to the root of trust or key store is denied", errs: []error{kms.ErrDenied, keystore.ErrDenied}},
	{status: http.StatusConflict, text: "key is pending deletion: ", open: true, errs: []error{kms.ErrPendingDeletion}},
	{status: http.StatusConflict, text: "key version has reached its limit of operations: rotate it", errs: []error{kms.ErrExhausted}},
	{status: http.StatusConflict, text: "key does not support HMAC", errs: []error{kms.ErrNoMAC}},
	{status: http.StatusNotImplemented, text: "not supported", errs: []error{kms.ErrUnsupported, keystore.ErrNoWatch}},
	{status: http.StatusNotAcceptable, text: "invalid key size for 'AES256'", errs: []error{kms.ErrKeySize}},
	{status: http.StatusBadRequest, text: "decryption failed: ciphertext is not authentic", errs: []error{kms.ErrCiphertext}},
	{status: http.StatusBadRequest, text: "key name '", open: true, end: nameEnd, errs: []error{kms.ErrName, keystore.ErrName}},
	{status: http.StatusBadRequest, text: "key already exists", errs: []error{kms.ErrKeyExists, keystore.ErrExists}},
	{status: http.StatusNotFound, text: "key does not exist", errs: []error{kms.ErrKeyNotFound, keystore.ErrNotFound}},
}

const nameEnd = "' is empty, too long or contains invalid characters"

// NameError returns the error for a name that breaks the rules. What is what it
// should name: "key name", "policy name" or "identity".
func NameError(what, name string) *Error {
	return &Error{http.StatusBadRequest, what + " '" + name + nameEnd}
}

// PatternError returns the error for a listing pattern that breaks the rules.
func PatternError(pattern string) *Error {
	return &Error{http.StatusBadRequest, "listing pattern '" + pattern + "' is empty, too long or is invalid"}
}

// CipherError returns the error for an import with another algorithm than
// AES256. The name is repeated, as in KES, but only if it can be one: a field
// can hold anything, a key too, and an encoded key is longer.
func CipherError(name string) *Error {
	if len(name) > maxAlgorithm || strings.Trim(name, algorithmBytes) != "" {
		name = "..."
	}
	return &Error{http.StatusNotAcceptable, "algorithm '" + name + "' is not supported"}
}

const (
	maxAlgorithm   = 24 // bytes; a key of 16 bytes has 24 in base64, with "=" at the end
	algorithmBytes = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-"
)

// MethodError returns the error for a request with another method than the
// route's.
func MethodError(received, expected string) *Error {
	return &Error{http.StatusMethodNotAllowed, "received method '" + received + "' expected '" + expected + "'"}
}

// ErrorOf returns what a client is told of err, which must not be nil: err
// itself if it is an *Error, else what the table says, else ErrInternal.
func ErrorOf(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	for _, r := range table {
		if r.has(err) {
			return &Error{r.status, r.text + r.details(err) + r.end}
		}
	}
	return ErrInternal
}

func (r row) has(err error) bool {
	return slices.ContainsFunc(r.errs, func(e error) bool { return errors.Is(err, e) })
}

// details returns what stands between text and end for err.
func (r row) details(err error) string {
	if pending, ok := errors.AsType[*kms.PendingDeletionError](err); ok && r.has(pending) {
		return "neither it nor its name can be used; it is kept until " + pending.Until.UTC().Format(time.RFC3339)
	}
	if r.has(kms.ErrPendingDeletion) {
		return "neither it nor its name can be used"
	}
	return ""
}

// matches reports whether e is an answer of r.
func (r row) matches(e *Error) bool {
	if e.Status != r.status {
		return false
	}
	if !r.open {
		return e.Message == r.text
	}
	return strings.HasPrefix(e.Message, r.text) && strings.HasSuffix(e.Message[len(r.text):], r.end)
}

// Error returns the text.
func (e *Error) Error() string { return e.Message }

// Is reports whether e is the answer for target: an *Error of the same status
// and text, or an error of package kms or keystore that the server answers so.
func (e *Error) Is(target error) bool {
	if t, ok := target.(*Error); ok {
		return *t == *e
	}
	for _, r := range table {
		if !r.matches(e) {
			continue
		}
		if slices.Contains(r.errs, target) || slices.Contains(r.also, target) {
			return true
		}
	}
	return false
}
