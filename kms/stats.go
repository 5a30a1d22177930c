package kms

import "sync/atomic"

// Stats counts what a KMS has done since it was made.
type Stats struct {
	RecordHits     uint64 // key records answered from memory
	RecordMisses   uint64 // key records asked of the store
	RecordsOffline uint64 // key records answered from memory because the store could not be asked
	Records        int64  // key records in memory now
	CorruptRecords uint64 // key records that were not what was stored: each is an alarm
	StoreErrors    uint64 // reads that the store could not answer
	RootErrors     uint64 // calls that the root could not answer
}

type counters struct {
	recordHits, recordMisses, recordsOffline, corruptRecords, storeErrors, rootErrors atomic.Uint64
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
	}
}
