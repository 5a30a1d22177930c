package storetest

import (
	"strings"
	"testing"

	"github.com/keygate/keygate/keystore"
)

// invalidNames are those of catalogue case BI-05, and neighbours of the rule.
func invalidNames() []string {
	return []string{
		"", "_", "-", "-app", "app-", ".", "..", "../x", "a/b", "/", "/etc/passwd", "a/../b", "./a",
		"%2e%2e%2f", "%2e", "a%00b", "a\x00b", "\x00", `\`, `..\x`, `a\b`, "app.", "app ", " app", "a b",
		"a\nb", "a\r", "a\tb", "*", "a*", "app.key", "app.record", ".tmp-1", "identity.", "a:b", "a%41",
		"é", "Ａpp", "ключ", "app\u200b", "\xff", strings.Repeat("a", keystore.MaxNameLen+1), strings.Repeat("a", 1<<20),
	}
}

func testInvalidNames(t *testing.T, h Harness) {
	s, ctx := h.Fresh(t)(), t.Context()
	rev := create(t, s, "app", []byte("one"))
	for _, name := range invalidNames() {
		if len(name) > 100 {
			t.Logf("a name of %d bytes", len(name))
		}
		want(t, "create", s.Create(ctx, name, []byte("x")), keystore.ErrName)
		_, _, err := s.Get(ctx, name)
		want(t, "get", err, keystore.ErrName)
		want(t, "update", s.Update(ctx, name, []byte("x"), rev), keystore.ErrName)
		want(t, "delete", s.Delete(ctx, name, rev), keystore.ErrName)
		if keystore.ValidPrefix(name) {
			continue
		}
		_, err = s.List(ctx, name, "", 9)
		want(t, "list prefix", err, keystore.ErrName)
		_, err = s.List(ctx, "", name, 9)
		want(t, "list after", err, keystore.ErrName)
	}
	listed(t, s, "", "", 99, "app")
}

func testValidNames(t *testing.T, h Harness) {
	s := h.Fresh(t)()
	names := []string{
		"a", "A", "0", "__", "_a", "a_", "a-b", "a--b", "con", "nul", "aux", "CON", "identity", "lock", "tmp",
		"_tmp", "e-", "record", "key", "lost_found", "0000", "1e6", "true", "null", "select", "a-_",
		strings.Repeat("a", keystore.MaxNameLen), strings.Repeat("A", keystore.MaxNameLen), strings.Repeat("_", keystore.MaxNameLen),
	}
	for _, name := range names {
		if keystore.ValidName(name) {
			create(t, s, name, []byte("record of "+name))
		}
	}
	for _, name := range names {
		if keystore.ValidName(name) {
			holds(t, s, name, []byte("record of "+name))
		}
	}
}

func testCase(t *testing.T, h Harness) {
	s := h.Fresh(t)()
	names := []string{"app-key", "App-key", "aPp-key", "app-Key", "APP-KEY", "APP-key"}
	for _, name := range names {
		create(t, s, name, []byte("record of "+name))
	}
	for i, name := range names {
		rev := holds(t, s, name, []byte("record of "+name))
		want(t, "delete "+name, s.Delete(t.Context(), name, rev), nil)
		for _, left := range names[i+1:] {
			holds(t, s, left, []byte("record of "+left))
		}
	}
}
