package mirror

import (
	"bytes"
	"testing"

	"github.com/keygate/keygate/kms"
)

// What parses is, bit for bit, what its parts are written as.
func FuzzHandle(f *testing.F) {
	for _, halves := range [][2][]byte{{[]byte("a"), []byte("b")}, {make([]byte, 100), make([]byte, 200)}} {
		b, err := keyHandle{purpose: kms.Encryption, halves: halves}.marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-sumSize])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, appendSum(bytes.Clone(b))} {
			h, err := parseHandle(b)
			if err != nil {
				continue
			}
			if back, err := h.marshal(); err != nil || !bytes.Equal(back, b) {
				t.Errorf("%x is written as %x, %v", b, back, err)
			}
		}
	})
}

func FuzzCiphertext(f *testing.F) {
	for _, m := range []message{
		{halves: [2][]byte{make([]byte, 68), make([]byte, 120)}, body: make([]byte, gcmOverhead+32)},
		{halves: [2][]byte{nil, []byte("x")}, body: make([]byte, gcmOverhead)},
	} {
		m.newHead()
		b := append(bytes.Clone(m.head), m.body...)
		f.Add(b)
		f.Add(appendSum(b))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, appendSum(bytes.Clone(b))} {
			m, err := parseMessage(b)
			if err != nil {
				continue
			}
			again := m
			again.newHead()
			if back := appendSum(append(again.head, m.body...)); !bytes.Equal(again.head, m.head) || !bytes.Equal(back, b) {
				t.Errorf("%x is written as %x", b, back)
			}
		}
	})
}

func FuzzRecordKeyFile(f *testing.F) {
	f.Add("")
	f.Add(fileHead + "AA==\nAA==\n")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := parseRecordKey(text)
		if err == nil && (k.handle.purpose != kms.Authentication || len(k.handle.halves[0]) == 0 || len(k.handle.halves[1]) == 0) {
			t.Errorf("%q is %+v", text, k)
		}
	})
}
