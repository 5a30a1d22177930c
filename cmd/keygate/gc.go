package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// What is in use of the heap is a few MiB on most nodes, and each request leaves a few
// KiB behind: collected as it is by default, at twice what is in use, a busy gateway
// would do so fifty times a second. The heap may grow by four times what is in use, by
// gcLeast however little that is, and by gcMost at the most or, where more is in use,
// by that.
const (
	gcTimes = 4
	gcLeast = 32 << 20  // bytes
	gcMost  = 512 << 20 // bytes
	// heapMin is what the runtime takes for in use at the least: with n percent it
	// lets the heap grow to n percent of it, whatever is in use (heapMinimum of
	// package runtime).
	heapMin = 4 << 20
)

// tuneGC has the collector leave that room, unless the environment says something of
// its own. It looks again after each collection.
func tuneGC() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	tuned := gcPercentFor(inUse())
	debug.SetGCPercent(tuned)
	afterGC(func() {
		// To set it stops the world: not for a little.
		if next := gcPercentFor(inUse()); next < tuned*3/4 || next > tuned*4/3 {
			tuned = next
			debug.SetGCPercent(next)
		}
	})
}

// gcPercentFor returns the percent of the bytes in use that the heap may grow by.
func gcPercentFor(inUse uint64) int {
	inUse = max(inUse, heapMin)
	room := max(gcLeast, min(gcTimes*inUse, gcMost), inUse)
	return int(room * 100 / inUse)
}

// inUse returns the bytes that the last collection left, 0 before the first.
func inUse() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// afterGC runs do after each collection, until the process ends.
func afterGC(do func()) {
	type sentinel struct{ _ [16]byte }
	runtime.SetFinalizer(new(sentinel), func(*sentinel) {
		do()
		afterGC(do)
	})
}
