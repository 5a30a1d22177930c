package secretsmanager

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"github.com/keygate/keygate/keystore"
)

var golden = &Store{identity: "000102030405060708090a0b0c0d0e0f"}

// What one release wrote, every later one reads.
func TestGoldenValues(t *testing.T) {
	for text, want := range map[string]struct {
		magic, record string
		deleted       bool
	}{
		"6b65796761746501b71e4932db3feff123986de77f10e4b8184b267d2588004b9a8d745920f01eb661207265636f7264": {magicRecord, "a record", false},
		"6b65796761746502916c2d87c67966bba365cef155ee21ce4d98475c7b3f3eb656ae0878dc858759":                 {magicTombstone, "", true},
	} {
		if got := hex.EncodeToString(golden.encode(want.magic, "app-1", []byte(want.record))); got != text {
			t.Errorf("the value is %s, not %s", got, text)
		}
		value, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		record, gone, err := golden.decode("app-1", value)
		if err != nil || string(record) != want.record || gone != want.deleted {
			t.Errorf("%s is %q, deleted %t, %v", text, record, gone, err)
		}
	}
}

func TestEveryChangeOfAValueIsCorrupt(t *testing.T) {
	value := golden.encode(magicRecord, "app-1", []byte("a record"))
	refused := func(what string, s *Store, name string, value []byte) {
		t.Helper()
		if _, _, err := s.decode(name, value); !errors.Is(err, keystore.ErrCorrupt) {
			t.Errorf("%s: error is %v", what, err)
		}
	}
	for bit := range len(value) * 8 {
		flipped := bytes.Clone(value)
		flipped[bit/8] ^= 1 << (bit % 8)
		refused("a flipped bit", golden, "app-1", flipped)
	}
	for n := range len(value) {
		refused("cut", golden, "app-1", value[:n])
	}
	refused("extended", golden, "app-1", append(bytes.Clone(value), 0))
	refused("another name", golden, "app-2", value)
	refused("another store", &Store{identity: "000102030405060708090a0b0c0d0e10"}, "app-1", value)
}

func FuzzValue(f *testing.F) {
	f.Add("app-1", golden.encode(magicRecord, "app-1", []byte("a record")))
	f.Add("app-1", golden.encode(magicTombstone, "app-1", nil))
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		if len(name) > keystore.MaxNameLen {
			return
		}
		if len(value) >= valueHeader { // what is behind the checksum
			copy(value[len(magicRecord):], golden.checksum(string(value[:len(magicRecord)]), name, value[valueHeader:]))
		}
		record, gone, err := golden.decode(name, value)
		if err != nil {
			if !errors.Is(err, keystore.ErrCorrupt) {
				t.Fatalf("error is %v", err)
			}
			return
		}
		magic := magicRecord
		if gone {
			magic = magicTombstone
		}
		if !bytes.Equal(golden.encode(magic, name, record), value) {
			t.Fatal("what is read is written as something else")
		}
	})
}
