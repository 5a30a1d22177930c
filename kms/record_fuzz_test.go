package kms

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
)

// FuzzRecord holds decode to being strict: what it takes is, but for the MAC,
// exactly what encode writes, so no two byte strings are one record.
func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decode(raw)
		if err != nil {
			return
		}
		again, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, raw[:len(raw)-MACSize]) {
			t.Fatalf("%x decodes, but is %x when encoded again", raw, again)
		}
	})
}

func TestFuzzRecordHasSeeds(t *testing.T) {
	seeds, _ := filepath.Glob("testdata/fuzz/FuzzRecord/*")
	if len(seeds) < 2 {
		t.Errorf("%d seeds", len(seeds))
	}
}

func TestRecordEncodingIsCanonical(t *testing.T) {
	when := time.Unix(1_700_000_000, 123).UTC()
	full := &record{
		Cluster: ClusterID{1}, Name: "app-1", ID: KeyID{2}, Generation: 3, State: PendingDeletion, Mode: envelope.Branch,
		Imported: true, Created: when, DeleteAfter: when.Add(time.Hour), CreatedBy: "someone",
		MACHandle: []byte("mac"), KESHandle: []byte("kes"),
		Versions: []version{{Number: 1, Created: when, Handle: []byte("one")}, {Number: 9, Created: when, Reserved: 7, Handle: []byte("nine")}},
	}
	least := &record{Cluster: ClusterID{1}, Name: "a", Generation: 1, State: Enabled, Versions: []version{{Number: 1, Handle: []byte{0}}}}
	for _, r := range []*record{full, least} {
		b, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(append(b, make([]byte, MACSize)...))
		if err != nil {
			t.Fatal(err)
		}
		again, err := got.encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%+v comes back as %+v (%v)", r, got, err)
		}
	}
}

// TestDecodeTakesNoMemoryForLengthsThatLie bounds what a hostile store can make
// a gateway allocate (BI-18).
func TestDecodeTakesNoMemoryForLengthsThatLie(t *testing.T) {
	r := &record{Cluster: ClusterID{1}, Name: "a", Generation: 1, State: Enabled, Versions: []version{{Number: 1, Handle: []byte{0}}}}
	b, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	raw := append(b, make([]byte, MACSize)...)
	count := len(b) - (4 + 8 + 8 + 2 + 1) - 2
	for _, lie := range []byte{0, 2, 100, 101, 255} {
		raw[count+1] = lie
		if _, err := decode(raw); err == nil {
			t.Errorf("a record of 1 version is read as one of %d", lie)
		}
	}
	if n := testing.AllocsPerRun(100, func() { decode(raw) }); n > 10 {
		t.Errorf("%v allocations", n)
	}
}
