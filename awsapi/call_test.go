package awsapi

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/smithy-go"
)

func answer(code string) error {
	return &smithy.OperationError{ServiceID: "KMS", OperationName: "Decrypt", Err: &smithy.GenericAPIError{Code: code, Message: "m"}}
}

var noAnswer = &smithy.OperationError{ServiceID: "KMS", OperationName: "Decrypt", Err: errors.New("connection reset by peer")}

func TestAnswersAreToldApart(t *testing.T) {
	for _, c := range []struct {
		err                           error
		throttled, transient, refused bool
	}{
		{answer("ThrottlingException"), true, true, false},
		{answer("KMSInternalException"), false, true, false},
		{answer("DependencyTimeoutException"), false, true, false},
		{answer("KeyUnavailableException"), false, true, false},
		{noAnswer, false, true, false},
		{fmt.Errorf("wrapped: %w", noAnswer), false, true, false},
		{answer("AccessDeniedException"), false, false, true},
		{answer("ExpiredTokenException"), false, false, true},
		{answer("InvalidCiphertextException"), false, false, false},
		{answer("DisabledException"), false, false, false},
		{answer("KMSInvalidStateException"), false, false, false},
		{answer("NotFoundException"), false, false, false},
		{errors.New("a fault of our own"), false, false, false},
	} {
		if Throttled(c.err) != c.throttled || Transient(c.err) != c.transient || Denied(c.err) != c.refused {
			t.Errorf("%v: throttled %t, transient %t, denied %t", c.err, Throttled(c.err), Transient(c.err), Denied(c.err))
		}
	}
}

func TestDoTriesTransientFailuresAgainAndNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			fails int
			err   error
			tries int
			good  bool
		}{
			{0, nil, 1, true},
			{3, answer("ThrottlingException"), 4, true},
			{2, noAnswer, 3, true},
			{1, answer("AccessDeniedException"), 1, false},
			{1, answer("InvalidCiphertextException"), 1, false},
		} {
			tries := 0
			err := NewCaller(0).Do(t.Context(), Transient, func(context.Context) error {
				if tries++; tries <= c.fails {
					return c.err
				}
				return nil
			})
			if tries != c.tries || (err == nil) != c.good {
				t.Errorf("%v, %d times: %d tries, error %v", c.err, c.fails, tries, err)
			}
		}
	})
}

func TestDoEndsWithTheDeadlineAndNoTryTakesAllOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context) error { <-ctx.Done(); return noAnswer }
		start, tries := time.Now(), 0
		err := NewCaller(4*time.Second).Do(t.Context(), Transient, func(ctx context.Context) error { tries++; return hang(ctx) })
		if took := time.Since(start); took > 4*time.Second || tries < 2 || err == nil {
			t.Errorf("%d tries in %v, error %v", tries, took, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		err = NewCaller(time.Minute).Do(ctx, Transient, hang)
		if took := time.Since(start); took != time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller's deadline: %v, error %v", took, err)
		}
		// It does not wait for a try that could not be made any more.
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		start = time.Now()
		err = NewCaller(time.Minute).Do(ctx, Transient, func(context.Context) error { return answer("ThrottlingException") })
		if took := time.Since(start); took > time.Millisecond || !Throttled(err) {
			t.Errorf("took %v, error %v", took, err)
		}
	})
}

func TestAServiceThatIsDownGetsFewMoreCallsThanAreMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, tries := NewCaller(0), 0
		const calls = 500
		for range calls {
			c.Do(t.Context(), Transient, func(context.Context) error { tries++; return answer("ThrottlingException") })
		}
		// Some of the budget is spent on tries that the deadline does not leave time for.
		if tries > calls+budgetSize || tries < calls+budgetSize/2 {
			t.Errorf("%d tries of %d calls, want up to %d", tries, calls, calls+budgetSize)
		}
		for range 100 { // each earns a tenth
			c.Do(t.Context(), Transient, func(context.Context) error { return nil })
		}
		tries = 0
		c.Do(t.Context(), Transient, func(context.Context) error { tries++; return answer("ThrottlingException") })
		if tries < 2 {
			t.Error("nothing was earned back")
		}
	})
}

func TestDoOfAContextThatHasEndedCallsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := NewCaller(0).Do(ctx, Transient, func(context.Context) error { t.Error("called"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}
