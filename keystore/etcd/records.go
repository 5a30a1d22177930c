package etcd

import (
	"context"
	"errors"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/keygate/keygate/keystore"
)

// maxDeletes bounds how often a create gives way to a delete of another record.
const maxDeletes = 16

// errDeleted is of a create that was not done, as a record was deleted.
var errDeleted = unavailable("others delete records all the time")

// Create stores a record under a name that has none. A try of which the answer is lost
// may be done late, when the record that the next one has made was deleted, and would
// bring it back. So each is done only if no record of the store was deleted since the
// call began.
func (s *Store) Create(ctx context.Context, name string, record []byte) error {
	if err := s.check("create", keystore.CheckWrite(ctx, name, record)); err != nil {
		return err
	}
	var err error
	for range maxDeletes {
		if err = s.create(ctx, name, record, s.seen()); !errors.Is(err, errDeleted) {
			break
		}
	}
	return err
}

func (s *Store) create(ctx context.Context, name string, record []byte, before position) error {
	key, id := s.recordKey(name), newID()
	t := transaction{
		when: []clientv3.Cmp{
			clientv3.Compare(clientv3.CreateRevision(key), "=", 0),
			clientv3.Compare(clientv3.ModRevision(s.deletedKey()), "<", before.revision+1),
		},
		then: s.writing(id, clientv3.OpPut(key, id.value(record))),
		key:  key,
	}
	return s.try(ctx, "create", t, func(r result, doubt bool) error {
		switch {
		case r.done || mine(r, id):
			return nil
		case doubt && !before.had(r):
			// Another's record, or this one, updated or deleted by another.
			return errDoubt
		case r.there == nil:
			return errDeleted
		}
		return keystore.ErrExists
	})
}

// Get returns the record of a name.
func (s *Store) Get(ctx context.Context, name string) (record []byte, rev keystore.Revision, err error) {
	if err := s.check("get", keystore.Check(ctx, name)); err != nil {
		return nil, "", err
	}
	key := s.recordKey(name)
	t := transaction{then: []clientv3.Op{clientv3.OpGet(key)}, key: key}
	err = s.try(ctx, "get", t, func(r result, _ bool) error {
		kvs := r.answers[0].GetResponseRange().Kvs
		if len(kvs) == 0 {
			return keystore.ErrNotFound
		}
		found, err := parse(kvs[0])
		if err == nil {
			record, rev = found.record, found.revision()
		}
		return err
	})
	return record, rev, err
}

// Update puts a record in the place of revision rev.
func (s *Store) Update(ctx context.Context, name string, record []byte, rev keystore.Revision) error {
	if err := s.check("update", keystore.CheckWrite(ctx, name, record)); err != nil {
		return err
	}
	key, id := s.recordKey(name), newID()
	t := transaction{
		when: at(key, rev),
		then: s.writing(id, clientv3.OpPut(key, id.value(record))),
		key:  key,
	}
	return s.try(ctx, "update", t, func(r result, doubt bool) error {
		if mine(r, id) {
			return nil
		}
		return r.missed(doubt)
	})
}

// Delete removes a record that has revision rev.
func (s *Store) Delete(ctx context.Context, name string, rev keystore.Revision) error {
	if err := s.check("delete", keystore.Check(ctx, name)); err != nil {
		return err
	}
	key := s.recordKey(name)
	t := transaction{when: at(key, rev), then: s.deleting(key), key: key}
	return s.try(ctx, "delete", t, func(r result, doubt bool) error { return r.missed(doubt) })
}

// writing returns op and what each write leaves for those who watch.
func (s *Store) writing(id writeID, op clientv3.Op) []clientv3.Op {
	return []clientv3.Op{op, clientv3.OpPut(s.changedKey(), string(id[:]))}
}

// deleting returns what removes a record, and keeps creates that began before from being
// done after.
func (s *Store) deleting(key string) []clientv3.Op {
	return append(s.writing(newID(), clientv3.OpDelete(key)), clientv3.OpPut(s.deletedKey(), ""))
}

// at is the condition that a record exists and has revision rev.
func at(key string, rev keystore.Revision) []clientv3.Cmp {
	return []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", modOf(rev))}
}

// mine reports whether what was in the way of a write is what it wrote: an earlier
// try of it was done, and its answer lost.
func mine(r result, id writeID) bool {
	if r.there == nil {
		return false
	}
	found, err := parse(r.there)
	return err == nil && found.id == id
}

// missed returns why a write at a revision was not done. If an earlier try may have
// been, that is not known.
func (r result) missed(doubt bool) error {
	switch {
	case r.done:
		return nil
	case doubt:
		return errDoubt
	case r.there == nil:
		return keystore.ErrNotFound
	}
	return keystore.ErrConflict
}

// List returns up to n names after the name after.
func (s *Store) List(ctx context.Context, prefix, after string, n int) ([]string, error) {
	if err := s.check("list", keystore.CheckList(ctx, prefix, after)); err != nil {
		return nil, err
	}
	names := []string{}
	end := clientv3.GetPrefixRangeEnd(s.recordKey(prefix))
	for from := s.recordKey(max(prefix, after+"\x00")); len(names) < n && from < end; {
		page, next, err := s.page(ctx, from, end, n-len(names))
		if err != nil {
			return nil, err
		}
		names, from = append(names, page...), next
	}
	return names, nil
}

// maxPage bounds what one transaction lists.
const maxPage = 10_000

// page returns up to n names from a key on, and where the next page begins. What
// is there that is no name is passed over.
func (s *Store) page(ctx context.Context, from, end string, n int) (names []string, next string, err error) {
	t := transaction{key: s.identityKey(), then: []clientv3.Op{
		clientv3.OpGet(from, clientv3.WithRange(end), clientv3.WithKeysOnly(), clientv3.WithLimit(int64(min(n, maxPage)))),
	}}
	err = s.try(ctx, "list", t, func(r result, _ bool) error {
		page := r.answers[0].GetResponseRange()
		names, next = nil, end
		for _, kv := range page.Kvs {
			if name := strings.TrimPrefix(string(kv.Key), s.recordKey("")); keystore.ValidName(name) {
				names = append(names, name)
			}
		}
		if page.More {
			next = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		}
		return nil
	})
	return names, next, err
}
