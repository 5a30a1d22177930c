// Package keystore defines where named key records live.
//
// A record is an opaque, authenticated byte string that package kms makes and
// reads; a store never sees the bytes of a key and never interprets a record.
// The drivers are in the packages below this one, and each passes the suite in
// package storetest.
package keystore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// WatchBound is how long a change may go untold by a Watch that has not returned.
const WatchBound = 3 * time.Second

// Limits that every store enforces or can rely on.
const (
	MaxNameLen    = 80      // bytes in a name; names are [0-9A-Za-z_-], so as many characters
	MaxRecordSize = 1 << 20 // bytes in a record
)

// A Revision identifies one state of one record. It is opaque to callers, is
// never empty for a record that exists, and differs between any two contents
// that a name has held, also when the name was deleted and made again.
type Revision string

// The errors of every store, wrapped with their cause. What a store does not
// know for certain is ErrUnavailable, never ErrNotFound: a client that is told
// that a key does not exist makes a new one, and the data under the old one is
// lost.
var (
	// ErrNotFound says that the store has answered and holds no such record.
	ErrNotFound = errors.New("keystore: record does not exist")
	// ErrExists is returned by Create: the name is taken.
	ErrExists = errors.New("keystore: record already exists")
	// ErrConflict is returned by Update and Delete: the record has another
	// revision now. Get it again and decide anew.
	ErrConflict = errors.New("keystore: record was changed by another writer")
	// ErrDenied says that the store refuses this gateway.
	ErrDenied = errors.New("keystore: access denied")
	// ErrCorrupt says that the store holds something under the name that cannot
	// be a record: of the wrong size, kind or ownership.
	ErrCorrupt = errors.New("keystore: record is corrupt")
	// ErrRights is an ErrCorrupt: the file of a record has another owner than the
	// gateway, or a mode that lets others read or write it, as after a restore by
	// another user. With the right ones it is a record again.
	ErrRights = fmt.Errorf("%w: its file has a wrong owner or mode", ErrCorrupt)
	// ErrUnavailable says that the store cannot tell, now: it is unreachable,
	// out of space, not the store of this cluster, or it failed half way. A
	// write that returns it may or may not have happened.
	ErrUnavailable = errors.New("keystore: store is unavailable")
	// ErrNoWatch is returned by Watch of a store that has none: poll instead.
	ErrNoWatch = errors.New("keystore: store cannot be watched")
	// ErrName is returned when a name breaks the rule of ValidName, before the
	// store is touched.
	ErrName = errors.New("keystore: invalid name")
)

// A Store keeps key records durably. Every method is safe for concurrent use
// by many goroutines and many processes. The store owns no slice that it was
// given and the caller owns each slice that is returned.
type Store interface {
	// Create stores a new record. Among any number of concurrent creates of
	// one name, on all nodes, exactly one succeeds and the others return
	// ErrExists. When it returns nil the record is durable.
	Create(ctx context.Context, name string, record []byte) error
	// Get returns the record and its revision, or ErrNotFound only when the
	// store is sure.
	Get(ctx context.Context, name string) (record []byte, rev Revision, err error)
	// Update replaces the record if its revision is still rev, else it returns
	// ErrConflict (or ErrNotFound, if the record is gone). When it returns nil
	// the new record is durable; at no moment is there neither.
	Update(ctx context.Context, name string, record []byte, rev Revision) error
	// Delete removes the record if its revision is still rev, else ErrConflict
	// or ErrNotFound.
	Delete(ctx context.Context, name string, rev Revision) error
	// List returns up to n names that start with prefix and come after the
	// name after, in ascending byte order. An empty prefix matches all, an
	// empty after starts at the beginning. Fewer than n names are the last.
	List(ctx context.Context, prefix, after string, n int) ([]string, error)
	// Watch tells of changes, for caches, until ctx ends. It calls changed with
	// "" when it hears of every change from then on and any name may have
	// changed before: at its beginning, and where it has missed something. After
	// that it calls changed with the name of each record that any node, this one
	// too, may have created, updated or deleted, within WatchBound of the end of
	// that call. It may tell of more than there is.
	//
	// When it can no longer be sure to hear of changes it returns an error: at
	// the latest WatchBound after the first change that it has not told of, so
	// that silence is proof. No connection that is cut unseen, no server that
	// lags or hangs, may make it wait for longer. The caller then polls, and may
	// call Watch again. Once ctx has ended the error wraps ctx's; a store that has
	// no watch returns ErrNoWatch at once.
	//
	// changed is called by one goroutine at a time, must return quickly, and is
	// not called after Watch has returned.
	Watch(ctx context.Context, changed func(name string)) error
	// Status returns nil if the store can be read and written now and is the
	// store of this cluster.
	Status(ctx context.Context) error
	// Close releases what the store holds. No other method may be called after.
	Close() error
}

// ValidName reports whether name can name a record: 1 to 80 of
// [0-9A-Za-z_-], not starting or ending with a hyphen and not a lone
// underscore.
func ValidName(name string) bool {
	if name == "" || len(name) > MaxNameLen || name == "_" {
		return false
	}
	if name[0] == '-' || name[len(name)-1] == '-' {
		return false
	}
	for i := range len(name) {
		if !nameByte(name[i]) {
			return false
		}
	}
	return true
}

// ValidPrefix reports whether prefix can begin a name; the empty one can.
func ValidPrefix(prefix string) bool {
	if len(prefix) > MaxNameLen || (prefix != "" && prefix[0] == '-') {
		return false
	}
	for i := range len(prefix) {
		if !nameByte(prefix[i]) {
			return false
		}
	}
	return true
}

func nameByte(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || c == '_' || c == '-'
}
