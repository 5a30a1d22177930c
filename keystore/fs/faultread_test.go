package fs

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keygate/keygate/keystore"
)

// reads are the calls that change nothing; each returns an error of its own if
// it succeeds with the wrong result.
var reads = map[string]func(t *testing.T, s *Store) error{
	"get": func(t *testing.T, s *Store) error {
		record, _, err := s.Get(t.Context(), "app")
		if err == nil && !bytes.Equal(record, oldRecord) {
			return fmt.Errorf("got %.40q", record)
		}
		return err
	},
	"get of an absent name": func(t *testing.T, s *Store) error {
		_, _, err := s.Get(t.Context(), "none")
		if errors.Is(err, keystore.ErrNotFound) {
			return nil // the right answer
		}
		return err
	},
	"list": func(t *testing.T, s *Store) error {
		names, err := s.List(t.Context(), "", "", 99)
		if err == nil && !slices.Equal(names, []string{"app", "other"}) {
			return fmt.Errorf("got %q", names)
		}
		return err
	},
	"status": func(t *testing.T, s *Store) error { return s.Status(t.Context()) },
}

func TestFaultAtEveryCallOfReads(t *testing.T) {
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			cfg := Config{Path: filepath.Join(t.TempDir(), "store")}
			must(t, initialize(cfg, testIdentity, &faulty{}))
			clean, err := Open(cfg, testIdentity)
			must(t, err)
			defer clean.Close()
			must(t, clean.Create(t.Context(), "app", oldRecord))
			must(t, clean.Create(t.Context(), "other", otherRecord))
			n := readWith(t, cfg, read, fault{name: "none"}, 0)
			t.Logf("%d calls, each with %d faults", n, len(faults))
			for at := 1; at <= n; at++ {
				for _, f := range faults {
					t.Run(fmt.Sprintf("%s at call %d", f.name, at), func(t *testing.T) { readWith(t, cfg, read, f, at) })
				}
			}
		})
	}
}

// readWith reads with the fault and then without: the store heals. It returns
// the number of calls made.
func readWith(t *testing.T, cfg Config, read func(*testing.T, *Store) error, f fault, at int) int {
	sys := &faulty{fault: f, at: at}
	s, err := open(cfg, testIdentity, sys)
	must(t, err)
	defer s.Close()
	fds := openFiles(t)
	sys.armed = true
	err = read(t, s)
	sys.armed = false
	if got := openFiles(t); got != fds {
		t.Errorf("%s: %d open files, %d before", sys.hit, got, fds)
	}
	checkAnswer(t, sys, err)
	if err := read(t, s); err != nil {
		t.Errorf("%s: after the fault was over: %v", sys.hit, err)
	}
	return len(sys.calls)
}

// TestFaultAtEveryCallOfInit checks that an Init that failed or was cut short
// anywhere can be done again.
func TestFaultAtEveryCallOfInit(t *testing.T) {
	n := initWith(t, fault{name: "none"}, 0)
	t.Logf("%d calls, each with %d faults", n, len(faults))
	for at := 1; at <= n; at++ {
		for _, f := range faults {
			t.Run(fmt.Sprintf("%s at call %d", f.name, at), func(t *testing.T) { initWith(t, f, at) })
		}
	}
}

func initWith(t *testing.T, f fault, at int) int {
	cfg := Config{Path: filepath.Join(t.TempDir(), "store")}
	sys := &faulty{fault: f, at: at, armed: true}
	fds := openFiles(t)
	err := initialize(cfg, testIdentity, sys)
	if got := openFiles(t); got != fds {
		t.Errorf("%s: %d open files, %d before", sys.hit, got, fds)
	}
	if (f.name == "EINTR" || f.short) && err != nil {
		t.Errorf("%s: got %v, want success: to be carried on", sys.hit, err)
	}
	s, err2 := Open(cfg, testIdentity)
	must(t, err2)
	defer s.Close()
	if err == nil {
		must(t, s.Status(t.Context()))
	}
	must(t, initialize(cfg, testIdentity, &faulty{}))
	must(t, s.Status(t.Context()))
	if _, _, err := s.Get(t.Context(), "app"); !errors.Is(err, keystore.ErrNotFound) {
		t.Fatalf("get: got %v, want ErrNotFound", err)
	}
	return len(sys.calls)
}
