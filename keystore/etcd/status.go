package etcd

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/keygate/keygate/keystore"
)

// Status sends a write through the cluster's log that changes nothing, as its
// condition is never true. Nothing less tells of a quorum that is lost, a store
// without space, or a user that may not write.
func (s *Store) Status(ctx context.Context) error {
	if err := s.check("status", keystore.CheckAlive(ctx)); err != nil {
		return err
	}
	t := transaction{
		when: []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(s.identityKey()), "=", 0)},
		then: s.writing(newID(), clientv3.OpPut(s.recordKey("-"), "")), // no name of a record
		key:  s.changedKey(),
	}
	return s.try(ctx, "status", t, func(result, bool) error { return nil })
}
