package kms_test

import (
	"context"
	"testing"

	"github.com/keygate/keygate/kms"
)

func TestTheCallerStaysWithWhatOutlivesItsRequest(t *testing.T) {
	if got := kms.CallerOf(t.Context()); got != "" {
		t.Errorf("nobody is %q", got)
	}
	name := ""
	ctx, cancel := context.WithCancel(kms.WithCaller(t.Context(), func() string { return name }))
	name = "app" // it is asked for late
	cancel()
	if got := kms.CallerOf(context.WithoutCancel(ctx)); got != "app" {
		t.Errorf("the caller is %q", got)
	}
}
