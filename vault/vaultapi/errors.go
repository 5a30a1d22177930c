package vaultapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// A Kind is what an error of a server means for who called it.
type Kind uint8

const (
	// Unavailable is all that is not known: no answer, one that makes no sense,
	// a server that is sealed, not active, throttling or failing.
	Unavailable Kind = iota
	// Denied is a server that refuses this process: with a token that it has
	// just called valid, or its login.
	Denied
	// Refused is a server that takes the request for wrong: status 400 with the
	// errors that Vault writes.
	Refused
	// Absent is a server that has nothing at the path: status 404 without a
	// word, as Vault writes it. A mount that does not exist is Unavailable.
	Absent
)

// An Error is a call that failed. Its text has what the server says of the
// failure, and nothing of the request but its path.
type Error struct {
	Op     string   // method and path
	Kind   Kind     // what it means
	Status int      // of HTTP; 0: there was no answer
	Texts  []string // what Vault says
	Data   []byte   // the answer's data where Vault sends one with the error, as for a deleted KV version

	cause error         // of an answer that did not come
	again bool          // a later try may have another answer
	after time.Duration // how long to wait before it, if the server says so
	early bool          // the server refused before it did anything
}

// Error says what failed.
func (e *Error) Error() string {
	text := "vaultapi: " + e.Op
	if e.Status != 0 {
		text += fmt.Sprintf(": status %d", e.Status)
	}
	if len(e.Texts) > 0 {
		text += ": " + strings.Join(e.Texts, "; ")
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap returns the cause of an answer that did not come: context.Canceled is
// one.
func (e *Error) Unwrap() error { return e.cause }

// KindOf returns what err means. An error that is none of this package is
// Unavailable.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Unavailable
}

// Is reports whether err is an error and means kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// errClosed is the cause of each call after Close.
var errClosed = errors.New("client is closed")

// maxText bounds what is taken of a server's text, in bytes.
const maxText = 200

// failed turns an error of the API client into one of ours. header is that of
// the answer, nil if there is none.
func failed(ctx context.Context, op string, header http.Header, err error) *Error {
	e := &Error{Op: op}
	answer, ok := errors.AsType[*api.ResponseError](err)
	if !ok {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL, which op has
		}
		if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		e.cause, e.again = err, !errors.Is(err, errTooLarge)
		if d, ok := errors.AsType[*net.OpError](err); ok && d.Op == "dial" {
			e.early = true // nothing was sent
		}
		return e
	}
	e.Status = answer.StatusCode
	if !answer.RawError { // a proxy may say anything, the request's headers too
		for _, text := range answer.Errors {
			e.Texts = append(e.Texts, printable(text))
		}
	}
	e.classify(header, answer.RawError)
	return e
}

// classify says what a status means
// (https://developer.hashicorp.com/vault/api-docs#http-status-codes and, for 429
// and 47x, .../api-docs/system/health). raw: the answer is not one of Vault's.
func (e *Error) classify(header http.Header, raw bool) {
	switch e.Status {
	case http.StatusBadRequest:
		if !raw && len(e.Texts) > 0 {
			e.Kind = Refused
		}
	case http.StatusForbidden:
		if !raw {
			e.Kind = Denied
		}
	case http.StatusNotFound:
		if !raw && len(e.Texts) == 0 { // "no handler for route" is a mount that is not there
			e.Kind = Absent
		}
	case http.StatusPreconditionFailed, // this node has not seen what another wrote
		http.StatusTooManyRequests, // a quota, or a standby
		472, 473:                   // a standby of another cluster, or for performance
		e.again, e.early = true, true
		e.after = retryAfter(header)
	case http.StatusServiceUnavailable: // sealed, not initialised, or a load balancer without a server
		e.again, e.after = true, retryAfter(header)
	default:
		e.again = e.Status >= 500
	}
}

// retryAfter reads the header of RFC 9110 10.2.3, in seconds. A date is taken
// for none.
func retryAfter(header http.Header) time.Duration {
	d, err := time.ParseDuration(header.Get("Retry-After") + "s")
	if err != nil || d < 0 {
		return 0
	}
	return d
}

// printable is text without what could break a line of a log.
func printable(text string) string {
	if len(text) > maxText {
		text = text[:maxText] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return ' '
		}
		return r
	}, strings.TrimSpace(text))
}
