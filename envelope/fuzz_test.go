package envelope_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/keygate/keygate/envelope"
)

func FuzzParse(f *testing.F) {
	aead := newAEAD(f, key)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, body, err := envelope.Parse(b)
		if err != nil {
			if !errors.Is(err, envelope.ErrFormat) || body != nil || h != (envelope.Header{}) {
				t.Fatalf("header %+v, body of %d bytes, error %v", h, len(body), err)
			}
			return
		}
		if again := append(h.Append(nil), body...); !bytes.Equal(again, b) {
			t.Fatalf("%x parses, but is %x when written again", b, again)
		}
		wrapped, sealed, err := envelope.ParseBranch(body)
		if err != nil {
			if !errors.Is(err, envelope.ErrFormat) {
				t.Fatalf("error is %v", err)
			}
			return
		}
		again := append(binary.BigEndian.AppendUint16(nil, uint16(len(wrapped))), wrapped...)
		if again = append(again, sealed...); !bytes.Equal(again, body) {
			t.Fatalf("body %x parses, but is %x when written again", body, again)
		}
		if _, err := envelope.OpenBranch(nil, h, cluster, wrapped, aead, sealed, nil); !errors.Is(err, envelope.ErrAuth) {
			t.Fatalf("opens under a key it was not made with: %v", err)
		}
	})
}

func FuzzParseKES(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		var c envelope.KES
		var err error
		bounded(t, len(b), func() { c, err = envelope.ParseKES(b) })
		if err != nil {
			if !errors.Is(err, envelope.ErrFormat) && !errors.Is(err, envelope.ErrUnsupported) {
				t.Fatalf("error is %v", err)
			}
			return
		}
		// Without an older form's first byte there is but one way to read it.
		if b[0] != '{' && b[0] != 0x95 && !bytes.Equal(c.IV[:], b[len(b)-28:len(b)-12]) {
			t.Fatalf("iv is %x", c.IV)
		}
		if _, err := envelope.OpenKES(c, new([32]byte), nil); !errors.Is(err, envelope.ErrAuth) {
			t.Fatalf("opens under the zero key: %v", err)
		}
	})
}

// bounded fails if f, which reads n bytes, allocates much more than these.
func bounded(t *testing.T, n int, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	// Twice the input, what the JSON decoder takes for itself, and what the
	// runtime and the fuzzer may take meanwhile.
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4*n+1<<17); got > most {
		t.Fatalf("%d bytes of input: %d bytes allocated, more than %d", n, got, most)
	}
}

// TestParsingIsBounded: hostile input takes no more memory than it is long.
func TestParsingIsBounded(t *testing.T) {
	lengths := func(first byte) []byte {
		return slices.Concat([]byte{0x95, first}, binary.BigEndian.AppendUint32(nil, 1<<32-1), make([]byte, 60))
	}
	for name, b := range map[string][]byte{
		"lying str":    lengths(0xdb),
		"lying bin":    slices.Concat([]byte{0x95, 0xa0, 0xa0, 0xc6}, binary.BigEndian.AppendUint32(nil, 1<<31), make([]byte, 60)),
		"deep JSON":    []byte(strings.Repeat(`{"a":`, envelope.MaxSize/5)),
		"deep arrays":  []byte(`{"id":` + strings.Repeat("[", 1<<20)),
		"many fields":  []byte("{" + strings.Repeat(`"a":0,`, 1<<17) + `"b":0}`),
		"long base64":  []byte(`{"bytes":"` + strings.Repeat("A", 1<<20) + `"}`),
		"many escapes": []byte(`{"aead":"` + strings.Repeat(`\u0041`, 1<<17) + `"}`),
	} {
		t.Run(name, func(t *testing.T) {
			bounded(t, len(b), func() {
				if _, err := envelope.ParseKES(b); err != nil {
					t.Errorf("not taken for the newest form: %v", err)
				}
			})
		})
	}
}

// TestFuzzTargetsHaveSeeds: a target whose seeds were moved tests nothing.
func TestFuzzTargetsHaveSeeds(t *testing.T) {
	for _, target := range []string{"FuzzParse", "FuzzParseKES"} {
		if seeds, err := filepath.Glob("testdata/fuzz/" + target + "/*"); err != nil || len(seeds) < 4 {
			t.Errorf("%s has %d seeds, error %v", target, len(seeds), err)
		}
	}
}
