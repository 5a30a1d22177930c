package fs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keygate/keygate/keystore"
)

const testIdentity = "000102030405060708090a0b0c0d0e0f"

var (
	oldRecord   = bytes.Repeat([]byte("old "), 300)
	newRecord   = bytes.Repeat([]byte("newer "), 200)
	otherRecord = []byte("of another key")
)

// An operation is one change to the key "app", and what may be there then; nil
// is no record.
type operation struct {
	name     string
	old, new []byte
	run      func(s *Store, rev keystore.Revision) error
	retried  error // what a retry with the same revision returns after success
}

var operations = []operation{
	{"create", nil, newRecord, func(s *Store, _ keystore.Revision) error {
		return s.Create(context.Background(), "app", newRecord)
	}, keystore.ErrExists},
	{"create of a taken name", oldRecord, oldRecord, func(s *Store, _ keystore.Revision) error {
		err := s.Create(context.Background(), "app", newRecord)
		if errors.Is(err, keystore.ErrExists) {
			return nil // the right answer
		}
		return cmp.Or(err, errors.New("created again"))
	}, nil},
	{"update", oldRecord, newRecord, func(s *Store, rev keystore.Revision) error {
		return s.Update(context.Background(), "app", newRecord, rev)
	}, keystore.ErrConflict},
	{"delete", oldRecord, nil, func(s *Store, rev keystore.Revision) error {
		return s.Delete(context.Background(), "app", rev)
	}, keystore.ErrNotFound},
}

// TestKS01_02_04_05_06_FaultAtEveryCall makes each call of each operation fail
// in each way, and checks that the old or the new state is there, whole, and
// the new one if the operation said so.
func TestKS01_02_04_05_06_FaultAtEveryCall(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			n := len(runFault(t, op, fault{name: "none"}, 0).calls)
			t.Logf("%d calls, each with %d faults", n, len(faults))
			if n < 10 {
				t.Fatalf("only %d calls: the seam is not in use", n)
			}
			for at := 1; at <= n; at++ {
				for _, f := range faults {
					t.Run(fmt.Sprintf("%s at call %d", f.name, at), func(t *testing.T) {
						if got := runFault(t, op, f, at); got.hit == "" {
							t.Fatalf("the fault was not reached: calls %v", got.calls)
						}
					})
				}
			}
		})
	}
}

func runFault(t *testing.T, op operation, f fault, at int) *faulty {
	cfg := Config{Path: filepath.Join(t.TempDir(), "store")}
	must(t, initialize(cfg, testIdentity, &faulty{}))
	sys := &faulty{fault: f, at: at}
	s, err := open(cfg, testIdentity, sys)
	must(t, err)
	defer s.Close()
	must(t, s.Create(t.Context(), "other", otherRecord))
	rev := prepare(t, s, op)
	fds := openFiles(t)

	sys.armed = true
	err = op.run(s, rev)
	sys.armed = false

	checkAnswer(t, sys, err)
	if s.dir.users != 1 {
		t.Errorf("%d users of the directory, want the store alone", s.dir.users)
	}
	if got := openFiles(t); got != fds {
		t.Errorf("%d open files, %d before", got, fds)
	}
	checkTemps(t, cfg.Path, sys)
	after, err2 := open(cfg, testIdentity, &faulty{}) // as after a restart
	must(t, err2)
	defer after.Close()
	checkState(t, op, after, err, rev)
	return sys
}

func prepare(t *testing.T, s *Store, op operation) keystore.Revision {
	if op.old == nil {
		return ""
	}
	must(t, s.Create(t.Context(), "app", op.old))
	_, rev, err := s.Get(t.Context(), "app")
	must(t, err)
	return rev
}

// checkAnswer: a fault is never told as a fact on the record.
func checkAnswer(t *testing.T, sys *faulty, err error) {
	t.Helper()
	for _, fact := range []error{keystore.ErrNotFound, keystore.ErrExists, keystore.ErrConflict, keystore.ErrCorrupt, keystore.ErrName} {
		if errors.Is(err, fact) {
			t.Errorf("%s: got %v", sys.hit, err)
		}
	}
	if err != nil && !errors.Is(err, keystore.ErrUnavailable) && !errors.Is(err, keystore.ErrDenied) {
		t.Errorf("%s: got %v, want ErrUnavailable or ErrDenied", sys.hit, err)
	}
	if (sys.name == "EINTR" || sys.short) && err != nil {
		t.Errorf("%s: got %v, want success: to be carried on", sys.hit, err)
	}
}

// checkTemps: what the operation could remove it has removed.
func checkTemps(t *testing.T, path string, sys *faulty) {
	t.Helper()
	if sys.dead || sys.hit == "unlinkat" {
		return
	}
	if left, _ := filepath.Glob(filepath.Join(path, tempPrefix+"*")); len(left) > 0 {
		t.Errorf("%s: left %q", sys.hit, left)
	}
}

// checkState: the old state or the new; the new one if that was acknowledged,
// the old one if it was denied; and the operation can be done now.
func checkState(t *testing.T, op operation, s *Store, answer error, rev keystore.Revision) {
	t.Helper()
	got := state(t, s)
	isOld, isNew := same(got, op.old), same(got, op.new)
	switch {
	case !isOld && !isNew:
		t.Fatalf("neither the old state nor the new: %.40q", got)
	case answer == nil && !isNew:
		t.Fatal("acknowledged, but the old state is there")
	case errors.Is(answer, keystore.ErrDenied) && !isOld:
		t.Fatal("denied, but the new state is there")
	}
	var want error
	if isNew {
		want = op.retried
	}
	if err := op.run(s, rev); !errors.Is(err, want) {
		t.Fatalf("retry: got %v, want %v", err, want)
	}
	if got := state(t, s); !same(got, op.new) {
		t.Fatalf("after the retry: not the new state: %.40q", got)
	}
	other, _, err := s.Get(t.Context(), "other")
	must(t, err)
	if !bytes.Equal(other, otherRecord) {
		t.Fatalf("the other key holds %q", other)
	}
}

// state returns the record of "app" or nil, and checks that List agrees.
func state(t *testing.T, s *Store) []byte {
	t.Helper()
	record, _, err := s.Get(t.Context(), "app")
	want := []string{"app", "other"}
	if errors.Is(err, keystore.ErrNotFound) {
		record, err, want = nil, nil, want[1:]
	}
	must(t, err)
	names, err := s.List(t.Context(), "", "", 99)
	must(t, err)
	if !slices.Equal(names, want) {
		t.Fatalf("list: got %q, want %q", names, want)
	}
	return record
}

func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(fds)
}
