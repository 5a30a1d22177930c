package fs

import (
	"slices"
	"testing"
)

// TestKS09_WriterRecipe checks the order in which durability rests: the content
// is synced before it gets its name, and the directory after. Only a cut of
// power could show the loss of one of these calls otherwise.
func TestKS09_WriterRecipe(t *testing.T) {
	name := map[string]string{"create": "linkat", "update": "renameat", "delete": "unlinkat"}
	for _, op := range operations {
		change, ok := name[op.name]
		if !ok {
			continue
		}
		calls := runFault(t, op, fault{name: "none"}, 0).calls
		at := slices.Index(calls, change)
		if at < 0 {
			t.Fatalf("%s: no %s in %v", op.name, change, calls)
		}
		if written := slices.Index(calls, "write"); op.new != nil {
			synced := slices.Index(calls, "fsync")
			if written < 0 || synced < written || synced > at {
				t.Errorf("%s: no fsync between write and %s: %v", op.name, change, calls)
			}
		}
		if !slices.Contains(calls[at:], "fsync") {
			t.Errorf("%s: no fsync after %s: %v", op.name, change, calls)
		}
	}
}
