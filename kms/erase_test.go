//go:build goexperiment.runtimesecret && linux && !race

package kms

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/keygate/keygate/envelope"
)

// A masked key is known to the test without its bytes being in memory.
type masked struct{ key, mask [KeySize]byte }

func (m *masked) word(i int) uint64 {
	return binary.NativeEndian.Uint64(m.key[8*i:]) ^ binary.NativeEndian.Uint64(m.mask[8*i:])
}

// newMasked makes a branch key in memory and returns what tells it again.
func newMasked(t *testing.T) (b *branch, m *masked) {
	t.Helper()
	key := make([]byte, KeySize)
	rand.Read(key)
	m = new(masked)
	rand.Read(m.mask[:])
	for i := range key {
		m.key[i] = key[i] ^ m.mask[i]
	}
	b, err := (&KMS{cfg: Config{Now: time.Now}}).newBranch(envelope.Header{}, nil, key, time.Hour)
	clear(key)
	if err != nil {
		t.Fatal(err)
	}
	return b, m
}

// SC-01: built as it is shipped, the expanded key of a branch key that was let go
// of is nowhere in memory. Its first 32 bytes are the key.
func TestSC01_ABranchKeyIsErasedOnceItIsLetGoOf(t *testing.T) {
	b, m := newMasked(t)
	if found := m.inMemory(t); found == 0 {
		t.Fatal("the key in use is not found: the search does not work")
	}
	runtime.KeepAlive(b)
	b = nil
	for range 20 { // it is erased when the collector has seen that it cannot be reached
		runtime.GC()
		if m.inMemory(t) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the key is in memory %d times", m.inMemory(t))
}

// inMemory counts the places in this process's memory that hold the key, at
// multiples of 8 bytes.
func (m *masked) inMemory(t *testing.T) (found int) {
	t.Helper()
	const size = 1 << 20
	// What is read is not in the heap, where it would be found.
	window, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(window)
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Skip(err)
	}
	defer memory.Close()
	own := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(window))))
	for _, r := range writable(t) {
		for at := r.begin; at < r.end; at += size - KeySize {
			if at < own+size && own < at+size {
				continue // this is the window
			}
			n, _ := memory.ReadAt(window[:min(size, r.end-at)], int64(at)) // what is not there any more is not read
			found += m.in(window[:n])
		}
	}
	clear(window)
	return found
}

func (m *masked) in(b []byte) (found int) {
	first := m.word(0)
	for i := 0; i+KeySize <= len(b); i += 8 {
		if binary.NativeEndian.Uint64(b[i:]) == first && binary.NativeEndian.Uint64(b[i+8:]) == m.word(1) && binary.NativeEndian.Uint64(b[i+16:]) == m.word(2) {
			found++
		}
	}
	return found
}

type region struct{ begin, end uint64 }

// writable returns the writable parts of this process's memory.
func writable(t *testing.T) (all []region) {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var r region
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &r.begin, &r.end, &rights); err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(rights, "rw") {
			all = append(all, r)
		}
	}
	return all
}
