package hsm_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
)

// BenchmarkIsolation encrypts a DEK, in this process and in a worker. It tells how long
// the median and the 99th of 100 callers waited, and the CPU of both processes.
func BenchmarkIsolation(b *testing.B) {
	for _, isolation := range []string{"in-process", "worker"} {
		for _, callers := range []int{1, 8, 16} {
			b.Run(fmt.Sprintf("%s/%d", isolation, callers), func(b *testing.B) {
				cfg := hsmtest.Config(b)
				cfg.Isolation = isolation
				r := hsmtest.Open(b, cfg)
				handle, err := r.NewKey(b.Context(), kms.KeyID{1}, kms.Encryption)
				if err != nil {
					b.Fatal(err)
				}
				pid := r.WorkerPID()
				waited := make([][]time.Duration, callers)
				var left atomic.Int64
				left.Store(int64(b.N))
				before := cpuTime(b, 0) + cpuTime(b, pid)
				b.ResetTimer()
				var wg sync.WaitGroup
				for i := range callers {
					wg.Go(func() {
						plaintext := make([]byte, kms.KeySize)
						for left.Add(-1) >= 0 {
							begun := time.Now()
							if _, err := r.Encrypt(b.Context(), handle, plaintext, nil); err != nil {
								b.Error(err)
								return
							}
							waited[i] = append(waited[i], time.Since(begun))
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				cpu := cpuTime(b, 0) + cpuTime(b, pid) - before
				all := slices.Concat(waited...)
				slices.Sort(all)
				b.ReportMetric(float64(cpu.Nanoseconds())/1000/float64(b.N), "cpu-us/op")
				b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1000, "p50-us")
				b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds())/1000, "p99-us")
			})
		}
	}
}

// cpuTime returns the CPU time of a process, in user and system, or of this one.
func cpuTime(b *testing.B, pid int) time.Duration {
	if pid == 0 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	var ticks int
	for _, i := range []int{11, 12} { // utime and stime: proc(5)
		n, err := strconv.Atoi(string(fields[i]))
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}
