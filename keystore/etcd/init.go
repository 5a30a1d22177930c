package etcd

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/remote"
)

// Init makes the store of a cluster: the identity, below a prefix under which there
// is nothing. The identity is the cluster's id in hex. To Init the store of the
// same identity again changes nothing. Anything else is an error.
func Init(ctx context.Context, cfg Config, identity string) error {
	s, err := Open(cfg, identity)
	if err != nil {
		return err
	}
	defer s.Close()
	err = remote.Try(ctx, s.timeout, func(ctx context.Context) (bool, error) {
		err := s.claim(ctx)
		return errors.Is(err, keystore.ErrUnavailable), err
	})
	if err == nil {
		err = s.try(ctx, "read back", transaction{key: s.changedKey()}, func(result, bool) error { return nil })
	}
	if err != nil {
		return fmt.Errorf("etcd: init: %w", err)
	}
	return nil
}

// claim writes the identity if there is nothing below the prefix. What is there
// otherwise is for the caller to read.
func (s *Store) claim(ctx context.Context) error {
	if err := keystore.CheckAlive(ctx); err != nil {
		return err
	}
	client, err := s.connection()
	if err != nil {
		return err
	}
	_, err = client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(s.prefix), "=", 0).WithPrefix()).
		Then(clientv3.OpPut(s.identityKey(), s.identity), clientv3.OpPut(s.changedKey(), "")).
		Commit()
	return classify("transaction", err)
}
