package storetest

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/keygate/keygate/keystore"
)

// listed checks what List returns.
func listed(t *testing.T, s keystore.Store, prefix, after string, n int, names ...string) {
	t.Helper()
	got, err := s.List(t.Context(), prefix, after, n)
	want(t, "list", err, nil)
	if !slices.Equal(got, names) {
		t.Fatalf("list(%q, %q, %d): got %q, want %q", prefix, after, n, got, names)
	}
}

func testList(t *testing.T, h Harness) {
	s := h.Fresh(t)()
	listed(t, s, "", "", 9)
	for _, name := range []string{"b", "a", "B", "a-1", "a_1", "a1", "aa", "0", "_x", "Z", "ab-c"} {
		create(t, s, name, []byte("x"))
	}
	all := []string{"0", "B", "Z", "_x", "a", "a-1", "a1", "a_1", "aa", "ab-c", "b"} // byte order
	listed(t, s, "", "", 99, all...)
	listed(t, s, "", "", len(all), all...)
	for n := range len(all) {
		listed(t, s, "", "", n, all[:n]...)
		listed(t, s, "", all[n], 99, all[n+1:]...)
	}
	listed(t, s, "", "", -1)
	listed(t, s, "", "a0", 2, "a1", "a_1") // after need not exist
	listed(t, s, "a", "", 99, all[4:10]...)
	listed(t, s, "a", "", 2, "a", "a-1")
	listed(t, s, "a-", "", 99, "a-1")
	listed(t, s, "a", "a1", 2, "a_1", "aa")
	listed(t, s, "a", "0", 1, "a")
	listed(t, s, "a", "b", 9)
	listed(t, s, "A", "", 9)
	listed(t, s, "b", "", 9, "b")
	listed(t, s, "zz", "", 9)
	listed(t, s, "", "zzz", 9)
}

func testPages(t *testing.T, h Harness) {
	open := h.Fresh(t)
	s := open()
	const total = 1100
	var names []string
	var g errgroup.Group
	g.SetLimit(16)
	for i := range total {
		name := fmt.Sprintf("key-%04d", i)
		names = append(names, name)
		g.Go(func() error { return s.Create(t.Context(), name, []byte(name)) })
	}
	want(t, "create", g.Wait(), nil)
	other := open()
	listed(t, other, "", "", total, names...)
	listed(t, other, "key-10", "", total, names[1000:]...)
	for _, page := range h.Pages {
		var got []string
		for after := ""; ; after = got[len(got)-1] {
			part, err := other.List(t.Context(), "key-", after, page)
			want(t, "list", err, nil)
			got = append(got, part...)
			if len(part) < page {
				break
			}
		}
		if !slices.Equal(got, names) {
			t.Fatalf("in pages of %d: got %d names, want %d in order", page, len(got), total)
		}
	}
}
