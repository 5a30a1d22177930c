package hsm_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keygate/keygate/kms"
)

func TestHS06_AHungCallCostsOneSlot(t *testing.T) {
	f := openFaulty(t)
	f.fail("C_Encrypt", fault{sleep: time.Hour})
	var wg sync.WaitGroup
	for range 2 { // of 4 sessions
		wg.Go(func() {
			start := time.Now()
			_, err := f.root.Encrypt(f.t.Context(), f.handle, []byte("plaintext"), nil)
			if !errors.Is(err, kms.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error is %v", err)
			}
			if took := time.Since(start); took < 900*time.Millisecond || took > 1500*time.Millisecond {
				t.Errorf("it returned after %v, not at the deadline of 1 s", took)
			}
		})
	}
	wg.Wait()
	for range 20 {
		ok(t, f.decrypt()) // other functions work, on the other slots
	}
	waitFor(t, func() bool { return f.root.Stats().WrittenOff == 2 })
	f.heal()
	f.recovers()
	waitFor(t, func() bool { return f.root.Stats().Hung == 0 })
}

func TestHS06_AModuleThatHangsCostsBoundedThreads(t *testing.T) {
	f := openFaulty(t)
	f.fail("C_Encrypt", fault{sleep: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for ctx.Err() == nil {
				short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
				_, err := f.root.Encrypt(short, f.handle, []byte("plaintext"), nil)
				cancel()
				if !errors.Is(err, kms.ErrUnavailable) {
					t.Errorf("error is %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got := f.inside("C_Encrypt"); got < 4 || got > 4+32 {
		t.Errorf("%d calls hang in the module, not 4 to 36", got)
	}
	f.heal()
	f.recovers()
}

func TestACancelledCallIsNotStarted(t *testing.T) {
	f := openFaulty(t)
	before := f.calls("C_EncryptInit")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		_, err := f.root.Encrypt(ctx, f.handle, nil, nil)
		is(t, err, kms.ErrUnavailable)
	}
	if got := f.calls("C_EncryptInit") - before; got != 0 {
		t.Errorf("%d calls were made for requests that had ended", got)
	}
}

func TestBI16_WhatCannotBeACiphertextDoesNotReachTheToken(t *testing.T) {
	f := openFaulty(t)
	before := f.calls("C_DecryptInit")
	for _, n := range []int{0, 1, 12, 27, kms.MaxRootPlaintext + 29, 1 << 20} {
		_, err := f.root.Decrypt(t.Context(), f.handle, make([]byte, n), nil)
		is(t, err, kms.ErrCiphertext)
	}
	if got := f.calls("C_DecryptInit") - before; got != 0 {
		t.Errorf("%d calls", got)
	}
}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not become so")
		}
	}
}

// A load that takes longer than its time, as on a machine that does too much, is
// written off, and another one takes its place on a session of its own.
func TestHS06_AHungLoadStopsNoOtherLoad(t *testing.T) {
	f := openFaulty(t)
	hung, others := newKey(t, f.root, kms.Authentication), make([][]byte, 4)
	for i := range others {
		others[i] = newKey(t, f.root, kms.Encryption)
	}
	f.fail("C_Sign", fault{sleep: time.Hour}) // what checks keys that authenticate
	_, err := f.root.MAC(t.Context(), hung, []byte("message"))
	is(t, err, kms.ErrUnavailable)
	if got := f.inside("C_Sign"); got != 1 {
		t.Errorf("%d calls hang", got)
	}
	waitFor(t, func() bool { return f.root.Stats().WrittenOff == 1 })
	connections := f.root.Stats().Connections
	f.fail("C_UnwrapKey", fault{sleep: 200 * time.Millisecond}) // so that they load at the same time
	var wg sync.WaitGroup
	for _, handle := range others {
		wg.Go(func() {
			if _, err := f.root.Encrypt(t.Context(), handle, nil, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := f.root.Stats().Connections; got != connections {
		t.Errorf("%d connections were made anew", got-connections)
	}
}

func TestHS06_AHungLoadDoesNotStopLoadedKeys(t *testing.T) {
	f := openFaulty(t)
	other := newKey(t, f.root, kms.Encryption)
	f.fail("C_UnwrapKey", fault{sleep: time.Hour})
	_, err := f.root.Encrypt(t.Context(), other, nil, nil)
	is(t, err, kms.ErrUnavailable)
	for range 20 {
		ok(t, f.decrypt()) // its key is loaded
	}
	f.heal()
	f.recovers()
	// A call may still be given the end of the load that hung, which it joined.
	waitFor(t, func() bool {
		_, err := f.root.Encrypt(t.Context(), other, nil, nil)
		return err == nil
	})
}
