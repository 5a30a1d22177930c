package main

import (
	"runtime"
	"testing"
	"time"
)

func TestGCPercentLeavesRoom(t *testing.T) {
	for inUse, want := range map[uint64]int{0: 800, 1 << 20: 800, 4 << 20: 800, 8 << 20: 400, 100 << 20: 400, 128 << 20: 400, 256 << 20: 200, 512 << 20: 100, 1 << 30: 100} {
		if got := gcPercentFor(inUse); got != want {
			t.Errorf("%d bytes in use: %d percent, not %d", inUse, got, want)
		}
	}
}

func TestAfterGCRunsAfterEachCollection(t *testing.T) {
	ran := make(chan struct{}, 100)
	afterGC(func() { ran <- struct{}{} })
	for i := range 3 {
		runtime.GC()
		select {
		case <-ran:
		case <-time.After(10 * time.Second):
			t.Fatalf("collection %d went unseen", i)
		}
	}
	if inUse() == 0 {
		t.Error("nothing is in use after a collection")
	}
}
