package kms

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
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

// What has once been stored, with its MAC by fixedRoot, field by field as in the
// comment on record. No change of the code may change these: records open for
// ever.
const (
	goldenFull = "4b475201" + "01000000000000000000000000000000" + // format, cluster
		"05" + "6170702d31" + "02000000000000000000000000000000" + // name, key id
		"0000000000000003" + "02" + "02" + "01" + "01" + // generation, state, mode, algorithm, imported
		"17979cfe362a007b" + "1797a04466e2a07b" + "07" + "736f6d656f6e65" + // created, delete after, creator
		"0003" + "6d6163" + "0003" + "6b6573" + "0002" + // handles, versions
		"00000001" + "17979cfe362a007b" + "0000000000000000" + "0003" + "6f6e65" +
		"00000009" + "17979cfe362a007b" + "0000000000000007" + "0004" + "6e696e65" +
		"e2c7435adae63f3c9b09d1d8de1cb69a46bbac8f97650286dd303da8231336ef"
	goldenLeast = "4b475201" + "01000000000000000000000000000000" +
		"01" + "61" + "00000000000000000000000000000000" +
		"0000000000000001" + "01" + "00" + "01" + "00" +
		"0000000000000000" + "0000000000000000" + "00" +
		"0000" + "0000" + "0001" +
		"00000001" + "0000000000000000" + "0000000000000000" + "0001" + "00" +
		"e894b7f380227bd6c638f81bf825a5040f1aa7a2823c257e094f670ea222d0b1"
)

// A fixedRoot authenticates records with a key of zeros, and can do no more.
type fixedRoot struct{ Root }

func (fixedRoot) MAC(_ context.Context, handle, message []byte) (mac [MACSize]byte, err error) {
	if handle != nil {
		return mac, ErrUnsupported
	}
	h := hmac.New(sha256.New, make([]byte, KeySize))
	h.Write(message)
	return [MACSize]byte(h.Sum(nil)), nil
}

func TestCR15_RecordEncodingIsCanonical(t *testing.T) {
	when := time.Unix(1_700_000_000, 123).UTC()
	full := &record{
		Cluster: ClusterID{1}, Name: "app-1", ID: KeyID{2}, Generation: 3, State: PendingDeletion, Mode: envelope.Branch,
		Imported: true, Created: when, DeleteAfter: when.Add(time.Hour), CreatedBy: "someone",
		MACHandle: []byte("mac"), KESHandle: []byte("kes"),
		Versions: []version{{Number: 1, Created: when, Handle: []byte("one")}, {Number: 9, Created: when, Reserved: 7, Handle: []byte("nine")}},
	}
	least := &record{Cluster: ClusterID{1}, Name: "a", Generation: 1, State: Enabled, Versions: []version{{Number: 1, Handle: []byte{0}}}}
	k := &KMS{root: fixedRoot{}}
	for _, test := range []struct {
		r      *record
		golden string
	}{{full, goldenFull}, {least, goldenLeast}} {
		r := test.r
		b, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := k.seal(t.Context(), r)
		if err != nil || hex.EncodeToString(sealed) != test.golden {
			t.Errorf("the format of stored records has changed: %v is sealed as\n%x\nnot\n%s (%v)", r.Name, sealed, test.golden, err)
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
