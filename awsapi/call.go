package awsapi

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
)

// A Caller tries calls again, within the deadline of the caller and within a
// budget: while a service is down, the tries of all goroutines together are no
// more than a tenth more than the calls, after a reserve of 100 is used up. The
// SDK's own retries know no deadline for a single try. The zero value is not
// ready: make one with NewCaller.
type Caller struct {
	timeout time.Duration // of a call
	try     time.Duration // of one try of it

	mu     sync.Mutex
	budget float64 // tries that may be repeated
}

const (
	budgetSize   = 100
	budgetEarned = 0.1 // by a call that succeeds
	firstWait    = 25 * time.Millisecond
	longestWait  = time.Second
)

// NewCaller returns a caller whose calls take timeout at most; zero means
// DefaultTimeout.
func NewCaller(timeout time.Duration) *Caller {
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	return &Caller{timeout: timeout, try: timeout / 2, budget: budgetSize}
}

// Do calls f until it returns nil or an error for which again is false. The last
// error is returned. f must use the context that it is given.
func (c *Caller) Do(ctx context.Context, again func(error) bool, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		err := c.once(ctx, f)
		if err == nil {
			c.earn()
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		// Full jitter: nodes that failed together do not come back together.
		if !again(err) || !c.spend() || !sleep(ctx, rand.N(wait)) {
			return err
		}
	}
}

func (c *Caller) once(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.try)
	defer cancel()
	return f(ctx)
}

func (c *Caller) earn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.budget = min(c.budget+budgetEarned, budgetSize)
}

func (c *Caller) spend() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.budget < 1 {
		return false
	}
	c.budget--
	return true
}

// sleep returns false at once if ctx would end before d is over.
func sleep(ctx context.Context, d time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Code returns the code of an answer of the service that is an error, such as
// ThrottlingException, or "" if err is none.
func Code(err error) string {
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		return e.ErrorCode()
	}
	return ""
}

// Throttled reports whether the service has refused a call for its rate, with a
// status of 400, 429 or 503: it has done nothing, whatever the call is.
func Throttled(err error) bool {
	return slices.Contains([]string{
		"ThrottlingException", "Throttling", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded",
		"RequestThrottled", "RequestThrottledException", "SlowDown", "PriorRequestNotComplete",
	}, Code(err))
}

// Transient reports whether a call may succeed if it is made again: throttled, a
// fault of the service's own, or no answer. It may have been done: only calls that
// can be made twice are tried again for it.
func Transient(err error) bool {
	if Throttled(err) || slices.Contains([]string{
		"KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException",
		"InternalServiceError", "InternalServiceErrorException", "InternalServerError", "InternalFailure",
		"ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout", "RequestTimeoutException",
	}, Code(err)) {
		return true
	}
	if r, ok := errors.AsType[*awshttp.ResponseError](err); ok && r.Response != nil && r.Response.Response != nil {
		switch status := r.HTTPStatusCode(); {
		case status >= http.StatusInternalServerError:
			return true
		case status >= http.StatusBadRequest:
			return false
		}
	}
	if Code(err) != "" {
		return false
	}
	// It was sent, or tried to be, and has no answer, or one that was cut.
	_, called := errors.AsType[*smithy.OperationError](err)
	_, bad := errors.AsType[*smithy.SerializationError](err)
	return called && !bad
}

// Denied reports whether the service has answered that this gateway may not do
// this, or that it does not know who it is.
func Denied(err error) bool {
	return slices.Contains([]string{
		"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "NotAuthorized", "OptInRequired",
		"UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch",
		"IncompleteSignature", "IncompleteSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException",
		"ExpiredToken", "ExpiredTokenException", "InvalidGrantTokenException",
	}, Code(err))
}
