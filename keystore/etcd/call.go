package etcd

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/remote"
)

// A transaction is one that is done only in the store of this cluster.
type transaction struct {
	when []clientv3.Cmp // beside the identity
	then []clientv3.Op
	// key is read if it is not done: what is there says why.
	key string
}

// A result is what a transaction of the store of this cluster has come to.
type result struct {
	done     bool
	revision int64            // of the store, when it was done
	cluster  uint64           // etcd's own id, another one after a restore
	answers  []*pb.ResponseOp // of then, if it was done
	there    *mvccpb.KeyValue // at key, if it was not; nil: nothing
}

// A position is a state of etcd that was seen; zero, none was.
type position struct {
	cluster  uint64
	revision int64
}

// saw notes the state of etcd in an answer of this cluster's store.
func (s *Store) saw(r result) { s.head.Store(&position{r.cluster, r.revision}) }

// seen returns a state of etcd that was before this call.
func (s *Store) seen() position {
	if p := s.head.Load(); p != nil {
		return *p
	}
	return position{}
}

// had reports whether what is in the way of a write was there at p already, and has
// been since.
func (p position) had(r result) bool {
	return r.there != nil && p.cluster == r.cluster && r.there.CreateRevision <= p.revision
}

// try runs t until it has an answer, and has decide say what that means. doubt
// says that an earlier try may have been done.
func (s *Store) try(ctx context.Context, call string, t transaction, decide func(r result, doubt bool) error) error {
	doubt := false
	err := remote.Try(ctx, s.timeout, func(ctx context.Context) (again bool, err error) {
		r, sure, err := s.run(ctx, t)
		if err != nil {
			again = !sure
			doubt = doubt || !sure
			return again, err
		}
		return false, decide(r, doubt)
	})
	if err != nil {
		return fmt.Errorf("etcd: %s: %w", call, err)
	}
	return nil
}

// run runs t once. With an error, sure says that t was not done and that another
// try would come to the same.
func (s *Store) run(ctx context.Context, t transaction) (r result, sure bool, err error) {
	client, err := s.connection()
	if err != nil {
		return r, s.isClosed() || errors.Is(err, keystore.ErrDenied), err
	}
	resp, err := client.Txn(ctx).
		If(append([]clientv3.Cmp{clientv3.Compare(clientv3.Value(s.identityKey()), "=", s.identity)}, t.when...)...).
		Then(t.then...).
		Else(clientv3.OpGet(s.identityKey()), clientv3.OpGet(t.key)).
		Commit()
	s.heard(client, err)
	if err != nil {
		if s.isClosed() {
			return r, true, unavailable("store is closed")
		}
		return r, denied(err), classify("transaction", err)
	}
	r = result{done: resp.Succeeded, revision: resp.Header.Revision, cluster: resp.Header.ClusterId}
	if resp.Succeeded {
		r.answers = resp.Responses
		s.saw(r)
		return r, true, nil
	}
	if err := s.identify(resp.Responses[0].GetResponseRange().Kvs); err != nil {
		return r, true, err
	}
	if kvs := resp.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
		r.there = kvs[0]
	}
	s.saw(r)
	return r, true, nil
}

// identify returns an error unless kvs is the identity of this cluster's store.
func (s *Store) identify(kvs []*mvccpb.KeyValue) error {
	switch {
	case len(kvs) == 0:
		return unavailable("there is no identity below %s: not a key store, or not this one", s.prefix)
	case string(kvs[0].Value) != s.identity:
		return unavailable("below %s is the store of another cluster: %q", s.prefix, kvs[0].Value[:min(len(kvs[0].Value), maxIdentity)])
	}
	return nil
}

func (s *Store) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// check is what every call does first.
func (s *Store) check(call string, err error) error {
	if err == nil && s.isClosed() {
		err = unavailable("store is closed")
	}
	if err != nil {
		return fmt.Errorf("etcd: %s: %w", call, err)
	}
	return nil
}

var errDoubt = fmt.Errorf("%w: the answer to an earlier try was lost, and what is there now does not say whether it was done", keystore.ErrUnavailable)
