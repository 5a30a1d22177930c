package etcd_test

import (
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/etcd"
	"github.com/keygate/keygate/keystore/storetest/servers"
)

// raw is a client of its own, past the driver.
func raw(t *testing.T, e servers.Etcd) *clientv3.Client {
	t.Helper()
	tls, err := config(e).TLS.Config("")
	want(t, "tls", err, nil)
	c, err := clientv3.New(clientv3.Config{Endpoints: e.Endpoints, TLS: tls, Logger: zap.NewNop()})
	want(t, "client", err, nil)
	t.Cleanup(func() { c.Close() })
	return c
}

// compact has etcd forget all but what is there now.
func compact(t *testing.T, e servers.Etcd) {
	t.Helper()
	c := raw(t, e)
	now, err := c.Get(t.Context(), "x")
	want(t, "get", err, nil)
	_, err = c.Compact(t.Context(), now.Header.Revision)
	want(t, "compact", err, nil)
}

// What is in etcd is as etcd.go and value.go say: what was stored opens for ever.
func TestCR15_AStoreOfVersion1(t *testing.T) {
	e := servers.SharedEtcd(t)
	cfg := config(e)
	c := raw(t, e)
	put := func(key, value string) {
		t.Helper()
		_, err := c.Put(t.Context(), cfg.Prefix+"/"+key, value)
		want(t, "put", err, nil)
	}
	put("identity", "keygate key store 1\n"+cluster+"\n")
	put("record/app", "\x010123456789abcdefthe record")
	s := open(t, cfg)
	record, rev, err := s.Get(t.Context(), "app")
	want(t, "get", err, nil)
	if string(record) != "the record" || !strings.HasSuffix(string(rev), "-30313233343536373839616263646566") {
		t.Errorf("got %q of revision %s", record, rev)
	}
	want(t, "update", s.Update(t.Context(), "app", []byte("another"), rev), nil)
	after, err := c.Get(t.Context(), cfg.Prefix+"/record/app")
	want(t, "get", err, nil)
	if v := after.Kvs[0].Value; len(v) != 17+len("another") || v[0] != 1 || string(v[17:]) != "another" {
		t.Errorf("the value is %q", v)
	}
	want(t, "init again", etcd.Init(t.Context(), cfg, cluster), nil)
}

func TestValuesThatAreNoRecordsAreCorrupt(t *testing.T) {
	e := servers.SharedEtcd(t)
	cfg := newStore(t, e)
	c, s := raw(t, e), open(t, cfg)
	for name, value := range map[string]string{
		"empty": "", "short": "\x01345", "another_format": "\x02" + strings.Repeat("x", 100),
		"long": "\x01" + strings.Repeat("x", 16+keystore.MaxRecordSize+1),
	} {
		_, err := c.Put(t.Context(), cfg.Prefix+"/record/"+name, value)
		want(t, "put", err, nil)
		want(t, "get of "+name, get(t, s, name), keystore.ErrCorrupt)
		want(t, "create of "+name, s.Create(t.Context(), name, nil), keystore.ErrExists)
		want(t, "update of "+name, s.Update(t.Context(), name, nil, "1-30313233343536373839616263646566"), keystore.ErrConflict)
	}
	_, err := c.Put(t.Context(), cfg.Prefix+"/record/no name", "x")
	want(t, "put", err, nil)
	names, err := s.List(t.Context(), "", "", 9)
	want(t, "list", err, nil)
	if strings.Join(names, " ") != "another_format empty long short" {
		t.Errorf("names are %q", names)
	}
}

func TestInitTakesNothingThatIsNotEmpty(t *testing.T) {
	e := servers.SharedEtcd(t)
	cfg := newStore(t, e)
	want(t, "init again", etcd.Init(t.Context(), cfg, cluster), nil)
	want(t, "init of another cluster", etcd.Init(t.Context(), cfg, "other"), keystore.ErrUnavailable)
	foreign := config(e)
	_, err := raw(t, e).Put(t.Context(), foreign.Prefix+"/something", "x")
	want(t, "put", err, nil)
	want(t, "init among others", etcd.Init(t.Context(), foreign, cluster), keystore.ErrUnavailable)
	want(t, "status", open(t, foreign).Status(t.Context()), keystore.ErrUnavailable)
}
