package gateway_test

import (
	"context"
	"sync/atomic"

	"github.com/keygate/keygate/keystore"
)

// A countingStore counts what reaches a key store.
type countingStore struct {
	keystore.Store
	calls *atomic.Int64
}

// counted counts the calls of the world's key store in w.storeCalls.
func counted(w *world) {
	w.keyStoreWrapper = func(s keystore.Store) keystore.Store { return countingStore{s, &w.storeCalls} }
}

func (s countingStore) Create(ctx context.Context, name string, record []byte) error {
	s.calls.Add(1)
	return s.Store.Create(ctx, name, record)
}

func (s countingStore) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	s.calls.Add(1)
	return s.Store.Get(ctx, name)
}

func (s countingStore) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	s.calls.Add(1)
	return s.Store.Update(ctx, name, record, rev)
}

func (s countingStore) Delete(ctx context.Context, name string, rev keystore.Revision) error {
	s.calls.Add(1)
	return s.Store.Delete(ctx, name, rev)
}

func (s countingStore) List(ctx context.Context, prefix, after string, n int) ([]string, error) {
	s.calls.Add(1)
	return s.Store.List(ctx, prefix, after, n)
}
