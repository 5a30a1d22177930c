package gateway

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/keygate/keygate/kms"
)

// Bounds of the checks of root and store. Routes that show their state can be
// open to everyone, and must not be a way to load them.
const (
	healthAge     = 500 * time.Millisecond // for which the answer of a check is used again
	healthTimeout = 10 * time.Second
)

// health knows the state of root and store.
type health struct {
	kms     *kms.KMS
	flights singleflight.Group

	mu   sync.Mutex
	at   time.Time
	last kms.Status
}

// check returns the state of root and store. If ctx ends before they have
// answered, both count as unavailable.
func (h *health) check(ctx context.Context) kms.Status {
	if last, ok := h.recent(); ok {
		return last
	}
	flight := h.flights.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
		defer cancel()
		status := h.kms.Status(ctx)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.at, h.last = time.Now(), status
		return status, nil
	})
	select {
	case result := <-flight:
		return result.Val.(kms.Status)
	case <-ctx.Done():
		return kms.Status{Root: ctx.Err(), Store: ctx.Err()}
	}
}

func (h *health) recent() (kms.Status, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last, !h.at.IsZero() && time.Since(h.at) < healthAge
}
