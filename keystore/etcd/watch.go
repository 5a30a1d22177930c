package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/remote"
)

// Watch tells of changes; see keystore.Store. What proves that it hears of them is
// the key that every write changes: a linearizable read of it, each second, says
// how far the watch must have come. A progress notification would not do: before
// etcd 3.4.25 and 3.5.8 one can overtake events (etcd issue 15220).
func (s *Store) Watch(ctx context.Context, changed func(name string)) error {
	if err := s.check("watch", keystore.CheckAlive(ctx)); err != nil {
		return err
	}
	for {
		w := &watch{store: s, changed: changed}
		err := w.run(ctx)
		if err == nil || errors.Is(err, rpctypes.ErrCompacted) {
			continue // begins anew, with "any name may have changed"
		}
		if ctx.Err() != nil {
			err = remote.Cancelled(ctx)
		}
		return fmt.Errorf("etcd: watch: %w", err)
	}
}

// A watch is one stream of events.
type watch struct {
	store   *Store
	changed func(string)
	proof   *remote.Proof
	told    atomic.Int64 // revision up to which all has been told
	open    *probe       // one that waits for the stream to come as far
}

// A probe is an answer to how far the stream must have come.
type probe struct {
	began    time.Time
	revision int64
	err      error // the store is another's, or was never one
}

// streams numbers the streams of this process. A stream with metadata of its own
// shares none with others, one that hangs least of all, and goes to the next
// member.
var streams atomic.Int64

// run watches from now on. It returns nil, or rpctypes.ErrCompacted, if etcd no
// longer has what comes next.
func (w *watch) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	now, _, err := w.store.probe(ctx)
	if err != nil {
		return err
	}
	client, err := w.store.connection()
	if err != nil {
		return err
	}
	w.told.Store(now.head)
	w.proof = remote.NewProof(began)
	defer w.proof.Stop()
	events := client.Watch(ownStream(clientv3.WithRequireLeader(ctx)), w.store.prefix,
		clientv3.WithPrefix(), clientv3.WithRev(now.head+1), clientv3.WithCreatedNotify())
	return w.follow(ctx, events, w.probes(ctx, now.cluster))
}

func ownStream(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "keygate-stream", fmt.Sprint(streams.Add(1)))
}

func (w *watch) follow(ctx context.Context, events clientv3.WatchChan, probes <-chan probe) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.proof.Over():
			return w.proof.Err()
		case resp, ok := <-events:
			if !ok {
				return unavailable("the stream ended")
			}
			if err := w.take(resp); err != nil {
				return err
			}
		case p := <-probes:
			if p.err != nil {
				return p.err
			}
			w.open = &p
		}
		if w.open != nil && w.told.Load() >= w.open.revision {
			w.proof.Proved(w.open.began)
			w.open = nil
		}
	}
}

// take tells of what came by the stream.
func (w *watch) take(resp clientv3.WatchResponse) error {
	if resp.CompactRevision != 0 {
		return rpctypes.ErrCompacted
	}
	if err := resp.Err(); err != nil {
		return classify("stream", err)
	}
	if resp.Created {
		w.changed("")
	}
	for _, event := range resp.Events {
		key := string(event.Kv.Key)
		if key == w.store.identityKey() {
			return unavailable("the identity of the store was changed")
		}
		if name, ok := strings.CutPrefix(key, w.store.recordKey("")); ok && keystore.ValidName(name) {
			w.changed(name)
		}
		w.told.Store(max(w.told.Load(), event.Kv.ModRevision))
	}
	return nil
}

// A head is how far the store has come.
type head struct {
	head    int64  // revision of etcd's
	changed int64  // the one at which a record was last written
	cluster uint64 // etcd's own id
}

// probe reads how far the store has come. With an error, sure says that another try
// would come to the same.
func (s *Store) probe(ctx context.Context) (h head, sure bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, remote.ProbeTimeout)
	defer cancel()
	r, sure, err := s.run(ctx, transaction{then: []clientv3.Op{clientv3.OpGet(s.changedKey())}, key: s.changedKey()})
	if err != nil {
		return h, sure, err
	}
	h.head, h.cluster = r.revision, r.cluster
	if kvs := r.answers[0].GetResponseRange().Kvs; len(kvs) > 0 {
		h.changed = kvs[0].ModRevision
	}
	return h, true, nil
}

// probes asks again and again until ctx ends. What fails is left out, unless etcd
// has answered that this is not the store, or no longer what was watched: restored
// from a snapshot, etcd counts anew, and the stream would wait for a revision that is
// yet to come.
func (w *watch) probes(ctx context.Context, cluster uint64) <-chan probe {
	c := make(chan probe)
	go func() {
		tick := time.NewTicker(remote.ProbeEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			p, told := probe{began: time.Now()}, w.told.Load()
			h, sure, err := w.store.probe(ctx)
			if !sure {
				continue
			}
			if err == nil && (h.cluster != cluster || h.head < told) {
				err = unavailable("etcd is another, or was restored: it is at revision %d, and was at %d", h.head, told)
			}
			p.revision, p.err = h.changed, err
			select {
			case c <- p:
			case <-ctx.Done():
				return
			}
		}
	}()
	return c
}
