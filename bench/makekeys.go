package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/kms"
)

// manyKeystore is the directory of the records that makeKeys makes.
const manyKeystore = "keystore-many"

// keyMakers is how many keys are made at a time: what is waited for is the
// disk.
const keyMakers = 64

// openRoot opens the token of the state in this process, by its module or a shim
// before it.
func (b *bench) openRoot(ctx context.Context, module string, sessions int) (*hsm.Root, error) {
	cfg := hsm.Config{Module: module, Token: "keygate", PIN: hsm.PIN{File: b.state.file("pin")}, Sessions: sessions}
	return hsm.Open(ctx, cfg, slog.New(slog.DiscardHandler))
}

// makeKeys makes n keys in a key store of their own, as a gateway makes them but
// without HTTP, and returns their names.
func (b *bench) makeKeys(ctx context.Context, keystore string, n int) (names []string, err error) {
	root, err := b.openRoot(ctx, b.state.module, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	where := fs.Config{Path: b.state.file(keystore)}
	if err := fs.Init(where, b.state.cluster); err != nil {
		return nil, err
	}
	store, err := fs.Open(where, b.state.cluster)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	cluster, err := kms.ParseClusterID(b.state.cluster)
	if err != nil {
		return nil, err
	}
	k, err := kms.New(kms.Config{Cluster: cluster, Logger: slog.New(slog.DiscardHandler)}, root, store)
	if err != nil {
		return nil, err
	}
	names = make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("app-%06d", i)
	}
	return names, createAll(ctx, k, names)
}

func createAll(ctx context.Context, k *kms.KMS, names []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	var next atomic.Int64
	for range keyMakers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(names) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if _, err := k.CreateKey(ctx, names[i], "bench"); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
