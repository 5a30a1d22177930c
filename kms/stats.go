package kms

import (
	"sync/atomic"
	"time"
)

// Stats counts what a KMS has done since it was made.
type Stats struct {
	RecordHits     uint64 // key records answered from memory
	RecordMisses   uint64 // key records asked of the store
	RecordsOffline uint64 // key records answered from memory because the store could not be asked
	Records        int64  // key records in memory now
	CorruptRecords uint64 // key records that were not what was stored: each is an alarm
	StoreErrors    uint64 // reads that the store could not answer
	RootErrors     uint64 // calls that the root could not answer

	Watching    bool   // the store tells of changes: see Follow
	Changes     uint64 // changes that the store has told of
	WatchesLost uint64 // how often it could no longer tell

	BranchesMade uint64        // branch keys made to seal with: each cost the root three calls
	BranchHits   uint64        // branch keys answered from memory
	BranchMisses uint64        // branch keys asked of the root
	Branches     int           // branch keys in memory now
	OutageUses   uint64        // uses of a branch key past its life, because the root was out
	Outage       time.Duration // for how long the root has been out, 0: it is not
}

type counters struct {
	recordHits, recordMisses, recordsOffline, corruptRecords, storeErrors, rootErrors atomic.Uint64
	changes, watchesLost                                                              atomic.Uint64
	branchesMade, branchHits, branchMisses, outageUses                                atomic.Uint64
}

// Stats returns the counters as they are now.
func (k *KMS) Stats() Stats {
	return Stats{
		RecordHits:     k.stats.recordHits.Load(),
		RecordMisses:   k.stats.recordMisses.Load(),
		RecordsOffline: k.stats.recordsOffline.Load(),
		Records:        k.records.size.Load(),
		CorruptRecords: k.stats.corruptRecords.Load(),
		StoreErrors:    k.stats.storeErrors.Load(),
		RootErrors:     k.stats.rootErrors.Load(),
		Watching:       k.follow.alive.Load() != 0,
		Changes:        k.stats.changes.Load(),
		WatchesLost:    k.stats.watchesLost.Load(),
		BranchesMade:   k.stats.branchesMade.Load(),
		BranchHits:     k.stats.branchHits.Load(),
		BranchMisses:   k.stats.branchMisses.Load(),
		Branches:       k.opened.size(),
		OutageUses:     k.stats.outageUses.Load(),
		Outage:         k.outageFor(),
	}
}
