// Package storetest is the suite that every keystore.Store passes. A fault that
// is found in one driver becomes a case here, so that all drivers get it.
package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/storetest/netfault"
)

// A Harness makes the stores that the suite tests.
type Harness struct {
	// Fresh makes an empty store and returns a function that opens it, each
	// time as another node of the cluster would. Both end the test on error,
	// and close what they open by t.Cleanup. open is called by the goroutine of
	// the test only.
	Fresh func(t *testing.T) (open func() keystore.Store)
	// Strange returns stores that are not this cluster's store, by what they are
	// instead: out of reach, empty, another cluster's, forbidden. Nil if the
	// store bears no identity.
	Strange func(t *testing.T) map[string]keystore.Store
	// Network opens the store that Fresh has made last by way of a proxy for each
	// of its servers, with calls of up to timeout, or, if that is 0, the default.
	// Nil if there is no network.
	Network func(t *testing.T, timeout time.Duration) (s keystore.Store, proxies []*netfault.Proxy)
	// Rounds is how often each race is run; zero is 20.
	Rounds int
	// Creates is how often the race of creates is run; zero is Rounds.
	Creates int
	// Cancelled is how many calls are cancelled; zero is 1,200.
	Cancelled int
	// Pages are the sizes of pages that 1,100 names are listed in; nil is 1000, 999,
	// 100 and 7. For stores whose every page costs a list of all.
	Pages []int
	// MaxRecord is how many bytes a record may have, if these are fewer than
	// keystore.MaxRecordSize.
	MaxRecord int
	// Tombstones says that the name of a deleted record is taken: create is
	// ErrExists, though there is no record.
	Tombstones bool
}

// maxRecord is how many bytes a record may have.
func (h Harness) maxRecord() int {
	if h.MaxRecord != 0 {
		return h.MaxRecord
	}
	return keystore.MaxRecordSize
}

// again creates a record of a name that was deleted, if that can be.
func (h Harness) again(t *testing.T, s keystore.Store, name string, record []byte) {
	t.Helper()
	if !h.Tombstones {
		create(t, s, name, record)
		return
	}
	want(t, "create "+name+" again", s.Create(t.Context(), name, record), keystore.ErrExists)
	absent(t, s, name)
}

// fresh returns a name for a round: the same, or another where names stay taken.
func (h Harness) fresh(name string, round int) string {
	if h.Tombstones {
		return fmt.Sprintf("%s-%d", name, round)
	}
	return name
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	if h.Rounds == 0 {
		h.Rounds = 20
	}
	if h.Creates == 0 {
		h.Creates = h.Rounds
	}
	if h.Cancelled == 0 {
		h.Cancelled = 1200
	}
	if h.Pages == nil {
		h.Pages = []int{1000, 999, 100, 7}
	}
	for _, c := range []struct {
		rule string
		test func(*testing.T, Harness)
	}{
		{"create, get, update, delete", testLife},
		{"create: a taken name is ErrExists and the record stays", testCreateExists},
		{"a name without a record is ErrNotFound", testAbsent},
		{"update and delete: another revision is ErrConflict and the record stays", testConflict},
		{"BI-05 an invalid name is ErrName before the store is touched", testInvalidNames},
		{"every valid name holds its own record", testValidNames},
		{"KS-12 names that differ by case do not collide", testCase},
		{"records of 0 bytes to the limit come back as they were", testSizes},
		{"a longer record is refused and nothing is stored", testTooLong},
		{"revisions never repeat", testRevisions},
		{"slices belong to the caller", testOwnership},
		{"list: order, prefix, after and n", testList},
		{"list: 1,100 names in pages", testPages},
		{"a context that has ended is ErrUnavailable and nothing changes", testContext},
		{"what one node writes another reads", testNodes},
		{"KS-19 what is not this cluster's store is ErrUnavailable, never ErrNotFound", testStrange},
		{"KS-24 calls that are cancelled while they run leave nothing behind", testCancelled},
		{"watch tells of each change, or is ErrNoWatch", testWatch},
		{"watch ends with its context", testWatchEnds},
		{"watch ends with its store", testWatchCloses},
		{"watch goes on while nothing happens", testWatchLasts},
		{"KS-28 a write whose answer is lost finds itself", testLostAnswers},
		{"KS-28 a create whose record was changed before it is tried again does not know", testLostCreates},
		{"KS-31 calls end in time whatever the network does", testNetworks},
		{"KS-27 watch that hears nothing ends within WatchBound", testSilence},
		{"KS-15 of 8 concurrent creates one succeeds", testCreateRace},
		{"concurrent updates lose nothing", testUpdateRace},
		{"of concurrent deletes one succeeds", testDeleteRace},
		{"readers never see half of a write", testReaders},
		{"a closed store is ErrUnavailable, its records stay", testClose},
	} {
		t.Run(c.rule, func(t *testing.T) { c.test(t, h) })
	}
}

// want ends the test unless err is the sentinel; nil wants success.
func want(t *testing.T, call string, err, sentinel error) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("%s: got error %v, want %v", call, err, sentinel)
	}
}

// create stores record under name and returns its revision.
func create(t *testing.T, s keystore.Store, name string, record []byte) keystore.Revision {
	t.Helper()
	want(t, "create "+name, s.Create(t.Context(), name, record), nil)
	return holds(t, s, name, record)
}

// holds checks that name holds record and returns its revision.
func holds(t *testing.T, s keystore.Store, name string, record []byte) keystore.Revision {
	t.Helper()
	got, rev, err := s.Get(t.Context(), name)
	want(t, "get "+name, err, nil)
	if !bytes.Equal(got, record) {
		t.Fatalf("get %s: got %d bytes %.32q, want %d bytes %.32q", name, len(got), got, len(record), record)
	}
	if rev == "" {
		t.Fatalf("get %s: empty revision", name)
	}
	return rev
}

// absent checks that the store is sure to hold no record of name.
func absent(t *testing.T, s keystore.Store, name string) {
	t.Helper()
	record, rev, err := s.Get(t.Context(), name)
	want(t, "get "+name, err, keystore.ErrNotFound)
	if record != nil || rev != "" {
		t.Fatalf("get %s: a record or revision with ErrNotFound", name)
	}
}
