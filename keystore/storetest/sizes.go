package storetest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/keygate/keygate/keystore"
)

func testSizes(t *testing.T, h Harness) {
	s, ctx := h.Fresh(t)(), t.Context()
	limit := h.maxRecord()
	for _, size := range []int{0, 1, 2, 15, 16, 17, 31, 32, 33, 255, 256, 4095, 4096, 4097, 65535, 65536, 65537, limit - 1, limit} {
		if size > limit {
			continue
		}
		name, record := fmt.Sprintf("size-%d", size), make([]byte, size)
		rev := create(t, s, name, record) // all zero
		rand.Read(record)
		want(t, "update", s.Update(ctx, name, record, rev), nil)
		holds(t, s, name, record)
	}
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	create(t, s, "every-byte", every)
	want(t, "create nil", s.Create(ctx, "nil", nil), nil)
	got, _, err := s.Get(ctx, "nil")
	want(t, "get nil", err, nil)
	if got == nil || len(got) != 0 {
		t.Fatalf("get of an empty record: got %v, want an empty slice", got)
	}
}

func testTooLong(t *testing.T, h Harness) {
	s, ctx := h.Fresh(t)(), t.Context()
	long := bytes.Repeat([]byte{'x'}, h.maxRecord()+1)
	want(t, "create", s.Create(ctx, "app", long), keystore.ErrCorrupt)
	absent(t, s, "app")
	rev := create(t, s, "app", []byte("one"))
	want(t, "update", s.Update(ctx, "app", long, rev), keystore.ErrCorrupt)
	if now := holds(t, s, "app", []byte("one")); now != rev {
		t.Fatalf("revision went from %s to %s", rev, now)
	}
}
