package storetest

import (
	"errors"
	"testing"

	"github.com/keygate/keygate/keystore"
)

// testStrange: what is not this cluster's store, or does not answer, is never taken
// for one that holds no such record, nor written to.
func testStrange(t *testing.T, h Harness) {
	if h.Strange == nil {
		t.Log("the store has no identity")
		return
	}
	for what, s := range h.Strange(t) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			for call, err := range everyCall(t, s) {
				if errors.Is(err, keystore.ErrNotFound) || errors.Is(err, keystore.ErrExists) || errors.Is(err, keystore.ErrConflict) {
					t.Errorf("%s: got %v, which only the right store can know", call, err)
				}
				if !oneOf(err, []error{keystore.ErrUnavailable, keystore.ErrDenied}) {
					t.Errorf("%s: got %v, want ErrUnavailable or ErrDenied", call, err)
				}
			}
			watchStrange(t, s)
		})
	}
}

// everyCall makes each call once and returns their errors.
func everyCall(t *testing.T, s keystore.Store) map[string]error {
	ctx := t.Context()
	_, _, get := s.Get(ctx, "app")
	_, list := s.List(ctx, "", "", 9)
	return map[string]error{
		"create": s.Create(ctx, "new", []byte("x")),
		"get":    get,
		"update": s.Update(ctx, "app", []byte("x"), "1"),
		"delete": s.Delete(ctx, "app", "1"),
		"list":   list,
		"status": s.Status(ctx),
	}
}
