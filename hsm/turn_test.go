package hsm

import (
	"testing"
	"time"
)

func TestATurnIsWaitedForNoLongerThanACallMayWait(t *testing.T) {
	const wait = 100 * time.Millisecond
	turn := newTurn(2)
	if !turn.take(wait) || turn.hangs(0) || !turn.take(wait) {
		t.Fatal("it is not there for two")
	}
	begun := time.Now()
	if turn.take(wait) {
		t.Fatal("three have it")
	}
	if took := time.Since(begun); took < wait/2 {
		t.Errorf("it was waited for %v", took)
	}
	if !turn.hangs(wait/2) || turn.hangs(time.Hour) {
		t.Error("it is not said for how long it did not move")
	}
	begun = time.Now()
	for range 100 {
		if turn.take(wait) {
			t.Fatal("three have it")
		}
	}
	if took := time.Since(begun); took > 10*wait {
		t.Errorf("100 calls waited for %v for what had not moved", took)
	}
	turn.give()
	if turn.hangs(0) || !turn.take(wait) {
		t.Error("what was given back cannot be taken")
	}
	go func() {
		time.Sleep(wait / 10)
		turn.give()
	}()
	if !turn.take(10 * time.Second) {
		t.Error("it was given back, and who waited did not get it")
	}
}
