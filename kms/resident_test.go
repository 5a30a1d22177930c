package kms_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/kms"
)

// inTheToken returns how many keys of each key id are objects of the token.
func inTheToken(t *testing.T, cfg hsm.Config) map[string]int {
	t.Helper()
	report, err := hsm.Doctor(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]int{}
	for _, k := range report.Keys {
		keys[k.ID]++
	}
	return keys
}

// Two gateways make a key of the same name: the record of one is stored, and the
// token has the keys of that one only. They go when the record is gone for good.
func TestTwoCreatesOfOneNameLeaveOneKeyInTheToken(t *testing.T) {
	cfg := hsmtest.Config(t)
	cfg.Residency = "token"
	place := fs.Config{Path: filepath.Join(t.TempDir(), "keys")}
	if err := fs.Init(place, cluster.String()); err != nil {
		t.Fatal(err)
	}
	open := func(c kms.Config) *kms.KMS {
		store, err := fs.Open(place, cluster.String())
		if err != nil {
			t.Fatal(err)
		}
		c.Cluster, c.Logger = cluster, quiet()
		k, err := kms.New(c, hsmtest.Open(t, cfg), store)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	nodes := []*kms.KMS{open(kms.Config{}), open(kms.Config{})}
	made := map[string]int{}
	var mu sync.Mutex
	for i := range 8 {
		name := fmt.Sprintf("key-%d", i)
		won := 0
		var both sync.WaitGroup
		for _, node := range nodes {
			both.Go(func() {
				info, err := node.CreateKey(t.Context(), name, "test")
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
					made[info.ID.String()] = 2 // one that encrypts and one that authenticates
				case !errors.Is(err, kms.ErrKeyExists):
					t.Errorf("%s: error is %v", name, err)
				}
			})
		}
		both.Wait()
		if won != 1 {
			t.Errorf("%s was made %d times", name, won)
		}
	}
	same(t, inTheToken(t, cfg), made)

	for i := range 8 {
		if _, err := nodes[0].DeleteKey(t.Context(), fmt.Sprintf("key-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	same(t, inTheToken(t, cfg), made) // they wait for their end

	forGood := open(kms.Config{DeletionWindow: -1})
	if _, err := forGood.DeleteKey(t.Context(), "key-0"); err != nil {
		t.Fatal(err)
	}
	if left := len(inTheToken(t, cfg)); left != len(made)-1 {
		t.Errorf("keys of %d ids are left of %d, after one was deleted for good", left, len(made))
	}
}

func same(t *testing.T, got, want map[string]int) {
	t.Helper()
	for id, n := range want {
		if got[id] != n {
			t.Errorf("the token has %d keys of id %s, not %d", got[id], id, n)
		}
	}
	for id, n := range got {
		if want[id] == 0 {
			t.Errorf("the token has %d keys of id %s, which no record has", n, id)
		}
	}
}
