// Package kms is the key management service: named master keys with versions
// and states, and the data encryption keys that they protect. The master keys
// are in a Root, which the gateway cannot read; their records are in a
// keystore.Store, which can neither read nor change them unseen.
package kms

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore"
)

// Config holds the settings of a KMS. The zero value of each field but Cluster
// is its default.
type Config struct {
	// Cluster is the identity of the key store and of all gateways that share
	// it. Required.
	Cluster ClusterID `yaml:"-"`

	// Mode is how DEKs are made of keys that do not say so themselves. Zero means
	// envelope.Branch.
	Mode envelope.Mode `yaml:"-"`
	// BranchLifetime is how long a branch key seals DEKs, at most
	// MaxBranchLifetime. Zero means DefaultBranchLifetime.
	BranchLifetime time.Duration `yaml:"-"`
	// BranchUses is how many DEKs a branch key seals, at most MaxBranchUses.
	// Zero means DefaultBranchUses.
	BranchUses int64 `yaml:"-"`
	// OpenedLifetime is how long a branch key of another node, or of an earlier
	// time, is kept once it was opened. Zero means DefaultBranchLifetime.
	OpenedLifetime time.Duration `yaml:"-"`
	// MaxOpened bounds the opened branch keys in memory, beside the one that each
	// key in use seals with. Zero means DefaultMaxOpened.
	MaxOpened int `yaml:"-"`
	// Outage is how long branch keys in memory go on past their life while the
	// root cannot be used, from the beginning of the outage. Zero means
	// DefaultOutage, a negative one forbids it.
	Outage time.Duration `yaml:"-"`

	// DeletionWindow is how long a deleted key waits, unusable but not lost.
	// Zero means DefaultDeletionWindow; a negative one deletes at once and for
	// good, as KES does.
	DeletionWindow time.Duration `yaml:"-"`

	// RecordTTL is how long a key record is used before the store is asked
	// again, and so how long a change on another node can go unnoticed. Zero
	// means DefaultRecordTTL.
	RecordTTL time.Duration `yaml:"-"`
	// WatchedTTL is RecordTTL for as long as Follow hears of every change of the
	// store. Zero means DefaultWatchedTTL; what is less than RecordTTL means
	// RecordTTL.
	WatchedTTL time.Duration `yaml:"-"`
	// MaxRecords bounds the key records held in memory. Zero means
	// DefaultMaxRecords.
	MaxRecords int `yaml:"-"`
	// Offline is how long after its last check a record is still used while
	// the store cannot answer. Zero: not at all.
	Offline time.Duration `yaml:"-"`
	// StoreTimeout bounds each call of the store. Zero means
	// DefaultStoreTimeout.
	StoreTimeout time.Duration `yaml:"-"`

	// Logger is told of alarms: records that are not what was stored. Nil
	// means slog.Default.
	Logger *slog.Logger `yaml:"-"`
	// Now is the clock, for tests. Nil means time.Now.
	Now func() time.Time `yaml:"-"`
}

// The defaults of Config.
const (
	DefaultDeletionWindow = 30 * 24 * time.Hour
	DefaultRecordTTL      = 5 * time.Second
	DefaultWatchedTTL     = time.Minute
	DefaultMaxRecords     = 100_000
	DefaultStoreTimeout   = 5 * time.Second

	DefaultBranchLifetime = time.Hour
	DefaultBranchUses     = 1 << 28
	DefaultMaxOpened      = 10_000
	DefaultOutage         = 10 * time.Minute
)

// The limits of Config.
const (
	// MaxBranchLifetime bounds how long a branch key in the memory of one node
	// is of use to who steals it.
	MaxBranchLifetime = 24 * time.Hour
	// MaxBranchUses is under the 2^32 invocations with a random nonce of
	// NIST SP 800-38D 8.3.
	MaxBranchUses = 1<<32 - 1
)

// A KMS serves named keys from one root and one store. It is safe for
// concurrent use.
type KMS struct {
	cfg     Config
	root    Root
	store   keystore.Store
	records recordCache
	fetches singleflight.Group
	follow  follow
	opened  openedCache
	outage  atomic.Int64 // since when the root cannot be used, in nanoseconds since 1970; 0: it can
	stats   counters
}

// New returns a KMS over root and store, which stay the caller's to close
// after the last call of the KMS has returned. It does no I/O.
func New(cfg Config, root Root, store keystore.Store) (*KMS, error) {
	if cfg.Cluster == (ClusterID{}) {
		return nil, errors.New("kms: no cluster id")
	}
	if cfg.DeletionWindow == 0 {
		cfg.DeletionWindow = DefaultDeletionWindow
	}
	if err := cfg.branchDefaults(); err != nil {
		return nil, err
	}
	if cfg.RecordTTL == 0 {
		cfg.RecordTTL = DefaultRecordTTL
	}
	if cfg.WatchedTTL == 0 {
		cfg.WatchedTTL = DefaultWatchedTTL
	}
	if cfg.MaxRecords == 0 {
		cfg.MaxRecords = DefaultMaxRecords
	}
	if cfg.StoreTimeout == 0 {
		cfg.StoreTimeout = DefaultStoreTimeout
	}
	if cfg.RecordTTL < 0 || cfg.WatchedTTL < 0 || cfg.MaxRecords < 0 || cfg.Offline < 0 || cfg.StoreTimeout < 0 {
		return nil, errors.New("kms: negative cache or timeout setting")
	}
	cfg.WatchedTTL = max(cfg.WatchedTTL, cfg.RecordTTL)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &KMS{cfg: cfg, root: root, store: store, opened: openedCache{seed: maphash.MakeSeed()}, follow: follow{epoch: time.Now()}}, nil
}

func (cfg *Config) branchDefaults() error {
	if cfg.Mode == 0 {
		cfg.Mode = envelope.Branch
	}
	if cfg.BranchLifetime == 0 {
		cfg.BranchLifetime = DefaultBranchLifetime
	}
	if cfg.BranchUses == 0 {
		cfg.BranchUses = DefaultBranchUses
	}
	if cfg.OpenedLifetime == 0 {
		cfg.OpenedLifetime = DefaultBranchLifetime
	}
	if cfg.MaxOpened == 0 {
		cfg.MaxOpened = DefaultMaxOpened
	}
	if cfg.Outage == 0 {
		cfg.Outage = DefaultOutage
	}
	cfg.Outage = max(cfg.Outage, 0)
	switch {
	case cfg.Mode != envelope.Direct && cfg.Mode != envelope.Branch:
		return fmt.Errorf("kms: %v is no mode", cfg.Mode)
	case cfg.BranchLifetime < 0 || cfg.BranchLifetime > MaxBranchLifetime || cfg.OpenedLifetime < 0 || cfg.OpenedLifetime > MaxBranchLifetime:
		return fmt.Errorf("kms: lifetime of a branch key is not from 0 to %v", MaxBranchLifetime)
	case cfg.BranchUses < 0 || cfg.BranchUses > MaxBranchUses:
		return fmt.Errorf("kms: uses of a branch key are not from 1 to %d", int64(MaxBranchUses))
	case cfg.MaxOpened < 0:
		return errors.New("kms: negative number of branch keys")
	}
	return nil
}

// A State is what may be done with a key.
type State uint8

const (
	// Enabled keys can be used.
	Enabled State = 1
	// PendingDeletion keys were deleted: they cannot be used, and wait.
	PendingDeletion State = 2
)

// String returns the state as the REST API spells it.
func (s State) String() string {
	switch s {
	case Enabled:
		return "enabled"
	case PendingDeletion:
		return "pending deletion"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Info describes a named key.
type Info struct {
	Name        string
	ID          KeyID
	State       State
	Version     uint32 // of the newest version, which new ciphertexts are made with; the first is 1
	Mode        envelope.Mode
	Operations  uint64 // of the newest version that nodes have reserved, of MaxOperations
	Imported    bool
	Created     time.Time
	CreatedBy   string    // the identity of the client that created it
	DeleteAfter time.Time // zero unless State is PendingDeletion
}

// Use says which key an operation used, and how, for the audit trail. As far
// as it was known it is also returned with an error.
type Use struct {
	KeyID   KeyID
	Version uint32        // zero: none, or a KES ciphertext, which names none
	Mode    envelope.Mode // zero: neither direct nor branch (a MAC, a KES ciphertext)
	Outage  bool          // a branch key past its life was used, as the root is out
}

// Status is the state of what a KMS depends on.
type Status struct {
	Root         error         // nil, or why the root of trust cannot be used
	Degraded     []string      // the parts of the root that cannot be used, while others serve in their place
	Store        error         // nil, or why the key store cannot be used
	StoreLatency time.Duration // of the key store's answer
}

// Status asks the root and the store, at the same time, whether they can be
// used now. What the root answers begins or ends an outage.
func (k *KMS) Status(ctx context.Context) Status {
	var s Status
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Root = guarded(func() error { return k.root.Status(ctx) })
		k.rootSeen(s.Root)
		if d, ok := k.root.(Degradable); ok {
			s.Degraded = d.Degraded()
		}
	}()
	start := time.Now()
	storeCtx, cancel := context.WithTimeout(ctx, k.cfg.StoreTimeout)
	defer cancel()
	s.Store = guarded(func() error { return k.store.Status(storeCtx) })
	s.StoreLatency = time.Since(start)
	<-done
	return s
}
