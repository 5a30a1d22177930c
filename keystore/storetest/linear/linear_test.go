package linear

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
)

// A broken store is one in memory with a fault that the checker has to find. It is
// unavailable at times, as those on a network are, before a call or after it.
type broken struct {
	keystore.Store
	staleReads, lostUpdates, noCompare, secondCreate, sureOfNothing, lateDelete bool

	mu    sync.Mutex
	cache map[string]sight
}

// lost returns ErrUnavailable for one call in ten.
func lost() error {
	if rand.IntN(10) == 0 {
		return keystore.ErrUnavailable
	}
	return nil
}

func (b *broken) Create(ctx context.Context, name string, record []byte) error {
	err := b.Store.Create(ctx, name, record)
	if b.secondCreate && err != nil {
		_, rev, _ := b.Store.Get(ctx, name)
		err = b.Store.Update(ctx, name, record, rev)
	}
	if err == nil {
		err = lost()
	}
	return err
}

func (b *broken) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	if err := lost(); err != nil {
		if b.sureOfNothing {
			err = keystore.ErrNotFound
		}
		return nil, "", err
	}
	b.mu.Lock()
	old, ok := b.cache[name]
	b.mu.Unlock()
	if b.staleReads && ok && rand.IntN(4) > 0 {
		return []byte(old.record), old.rev, nil
	}
	record, rev, err := b.Store.Get(ctx, name)
	if err == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cache[name] = sight{string(record), rev}
	}
	return record, rev, err
}

func (b *broken) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	if b.noCompare {
		_, rev, _ = b.Store.Get(ctx, name)
	}
	if b.lostUpdates && rand.IntN(4) == 0 {
		return nil
	}
	if err := b.Store.Update(ctx, name, record, rev); err != nil {
		return err
	}
	return lost()
}

func (b *broken) Delete(ctx context.Context, name string, rev keystore.Revision) error {
	if b.lateDelete {
		time.AfterFunc(20*time.Millisecond, func() { b.Store.Delete(ctx, name, rev) })
		return nil
	}
	if err := b.Store.Delete(ctx, name, rev); err != nil {
		return err
	}
	return lost()
}

// nodesOf returns three nodes with the fault of like.
func nodesOf(t *testing.T, like *broken) Nodes {
	t.Helper()
	s := memory.New()
	t.Cleanup(func() { s.Close() })
	var nodes Nodes
	for range 3 {
		nodes.Stores = append(nodes.Stores, &broken{
			Store: s, cache: make(map[string]sight), staleReads: like.staleReads, lostUpdates: like.lostUpdates, noCompare: like.noCompare,
			secondCreate: like.secondCreate, sureOfNothing: like.sureOfNothing, lateDelete: like.lateDelete,
		})
	}
	return nodes
}

// TestKS32_TheCheckerFindsWhatIsBroken: histories of stores with a fault have no order.
func TestKS32_TheCheckerFindsWhatIsBroken(t *testing.T) {
	const most = 20 // histories in which a fault has to show itself
	for name, like := range map[string]*broken{
		"reads from a cache":                      {staleReads: true},
		"an update that is lost":                  {lostUpdates: true},
		"an update of any revision":               {noCompare: true},
		"a create of a name that is taken":        {secondCreate: true},
		"not found, where it cannot be known":     {sureOfNothing: true},
		"a delete that is done after it was told": {lateDelete: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pages := t.TempDir()
			nodes := nodesOf(t, like)
			for seed := range uint64(most) {
				err := record(t.Context(), nodes, seed).check(pages)
				if err == nil {
					continue
				}
				t.Logf("history %d: %.120v", seed, err)
				checkPage(t, pages, err)
				return
			}
			t.Errorf("not found in %d histories", most)
		})
	}
}

// checkPage checks that a history without an order is left as a page.
func checkPage(t *testing.T, pages string, violation error) {
	t.Helper()
	if !strings.Contains(violation.Error(), "not linearizable") {
		t.Errorf("found by chance, not by the order of calls: %v", violation)
		return
	}
	files, err := filepath.Glob(filepath.Join(pages, "*.html"))
	if err != nil || len(files) != 1 {
		t.Fatalf("pages %q, %v", files, err)
	}
	page, err := os.ReadFile(files[0])
	if err != nil || !strings.Contains(string(page), "node ") {
		t.Errorf("the page shows no calls: %v", err)
	}
}

// TestKS32_AStoreThatIsUnavailableAtTimes is one without a fault: the checker finds
// none.
func TestKS32_AStoreThatIsUnavailableAtTimes(t *testing.T) {
	Run(t, Harness{Open: func(t *testing.T) Nodes { return nodesOf(t, &broken{}) }, Histories: 100})
}
