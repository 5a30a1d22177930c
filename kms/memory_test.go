package kms

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/keystore/memory"
)

// inUse returns the bytes of the heap that are in use.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// manyKeys puts n keys into the memory of a KMS as their first use leaves them:
// a record, a budget, and a branch key that seals.
func manyKeys(k *KMS, n int) {
	for i := range n {
		var id KeyID
		binary.BigEndian.PutUint64(id[:], uint64(i))
		r := &record{Name: fmt.Sprintf("app-%06d", i), ID: id, Versions: []version{{Number: 1, Handle: make([]byte, 97)}}}
		r.sealer, r.budget = new(sealer), new(budget)
		k.records.add(r.Name, &cached{rec: r, last: r, rev: "1", checked: time.Now().UnixNano()}, 0, n)
		wrapped := make([]byte, 60)
		copy(wrapped, id[:])
		b, err := k.newBranch(envelope.Header{Mode: envelope.Branch, KeyID: id, Version: 1}, wrapped, make([]byte, KeySize), time.Hour)
		if err != nil {
			panic(err)
		}
		r.sealer.use(b, time.Hour)
		k.keep(b, k.opened.epoch.Load())
	}
}

// BenchmarkAKeyInMemory says what each key in use takes, and what a collection
// costs with 100,000 of them.
func BenchmarkAKeyInMemory(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		k, err := New(Config{Cluster: ClusterID{1}, Logger: slog.New(slog.DiscardHandler)}, nil, memory.New())
		if err != nil {
			b.Fatal(err)
		}
		before := inUse()
		begin := time.Now()
		manyKeys(k, n)
		b.ReportMetric(float64(time.Since(begin))/n, "ns/key")
		b.ReportMetric(float64(inUse()-before)/n, "bytes/key")
		begin = time.Now()
		runtime.GC()
		b.ReportMetric(float64(time.Since(begin))/1e6, "ms/GC")
		runtime.KeepAlive(k)
	}
}
