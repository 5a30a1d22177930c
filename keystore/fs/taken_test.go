package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keygate/keygate/keystore"
)

// TestKS19_TakenAwayAtEveryCall takes the directory away in the middle of an
// operation: it never says that a record does not exist, and what it
// acknowledged is there when the directory is back.
func TestKS19_TakenAwayAtEveryCall(t *testing.T) {
	all := slices.Clone(operations)
	for _, name := range []string{"get", "list"} {
		all = append(all, operation{name, oldRecord, oldRecord, func(s *Store, _ keystore.Revision) error {
			return reads[name](t, s)
		}, nil})
	}
	for way, take := range map[string]func(t *testing.T, from, to string){"moved": moveDir, "emptied": moveFiles} {
		for _, op := range all {
			t.Run(op.name+" "+way, func(t *testing.T) {
				n := takenAway(t, op, take, 0)
				for at := 1; at <= n; at++ {
					t.Run(fmt.Sprint(at), func(t *testing.T) { takenAway(t, op, take, at) })
				}
			})
		}
	}
}

func takenAway(t *testing.T, op operation, take func(t *testing.T, from, to string), at int) int {
	base := t.TempDir()
	cfg, away := Config{Path: filepath.Join(base, "store")}, filepath.Join(base, "away")
	must(t, initialize(cfg, testIdentity, &faulty{}))
	sys := &faulty{at: at, fault: fault{hook: func() { take(t, cfg.Path, away) }}}
	s, err := open(cfg, testIdentity, sys)
	must(t, err)
	defer s.Close()
	must(t, s.Create(t.Context(), "other", otherRecord))
	rev := prepare(t, s, op)
	sys.armed = true
	err = op.run(s, rev)
	sys.armed = false
	if err != nil && !errors.Is(err, keystore.ErrUnavailable) {
		t.Errorf("before %s: got %v, want ErrUnavailable or success", sys.hit, err)
	}
	if at > 0 {
		take(t, away, cfg.Path) // back again
	}
	if _, ok := reads[op.name]; !ok {
		checkState(t, op, s, err, rev)
	}
	return len(sys.calls)
}

func moveDir(t *testing.T, from, to string) {
	os.RemoveAll(to) // the empty one
	must(t, os.Rename(from, to))
	must(t, os.Mkdir(from, 0o700))
}

func moveFiles(t *testing.T, from, to string) {
	os.Mkdir(to, 0o700)
	entries, err := os.ReadDir(from)
	must(t, err)
	for _, e := range entries {
		must(t, os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())))
	}
}
