package fs

import (
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
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

// TestLinkThatWasAnsweredTwice: a network file system may answer a repeated
// link with EEXIST although this very call made it (open(2), O_EXCL and NFS).
func TestLinkThatWasAnsweredTwice(t *testing.T) {
	op := operations[0]
	at := 1 + slices.Index(runFault(t, op, fault{name: "none"}, 0).calls, "linkat")
	cfg := Config{Path: filepath.Join(t.TempDir(), "store")}
	must(t, Init(cfg, testIdentity))
	sys := &faulty{fault: fault{err: unix.EEXIST, done: true}, at: at}
	s, err := open(cfg, testIdentity, sys)
	must(t, err)
	defer s.Close()
	sys.armed = true
	err = s.Create(t.Context(), "app", newRecord)
	if sys.armed = false; err != nil || sys.hit != "linkat" {
		t.Fatalf("%s: got %v, want success", sys.hit, err)
	}
	record, _, err := s.Get(t.Context(), "app")
	must(t, err)
	if !same(record, newRecord) {
		t.Fatalf("the record is %.40q", record)
	}
}
