package envelope_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/keygate/keygate/envelope"
)

var (
	keyID   = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	cluster = [16]byte{0xc1, 0xc2, 0xc3}
	header  = envelope.Header{Mode: envelope.Branch, KeyID: keyID, Version: 7}
)

func TestHeader(t *testing.T) {
	for _, h := range []envelope.Header{{envelope.Direct, keyID, 1}, {envelope.Branch, [16]byte{}, 1<<32 - 1}} {
		b := append(h.Append(nil), 0xaa)
		if len(b) != envelope.HeaderSize+1 {
			t.Errorf("header of %d bytes", len(b)-1)
		}
		got, body, err := envelope.Parse(b)
		if err != nil || got != h || !bytes.Equal(body, []byte{0xaa}) {
			t.Errorf("parses to %+v, body %x, error %v", got, body, err)
		}
	}
}

func TestParseRefusesWhatIsNotOurs(t *testing.T) {
	good := append(header.Append(nil), 0)
	edit := func(i int, b byte) []byte { c := slices.Clone(good); c[i] = b; return c }
	for name, b := range map[string][]byte{
		"empty": nil, "no body": good[:24], "magic": edit(0, 'k'), "format 0": edit(2, 0), "format 2": edit(2, 2),
		"mode 0": edit(3, 0), "mode 3": edit(3, 3), "version 0": edit(23, 0), "too large": make([]byte, envelope.MaxSize+1),
	} {
		if _, _, err := envelope.Parse(b); !errors.Is(err, envelope.ErrFormat) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestAdditionalDataBindsAll(t *testing.T) {
	base := envelope.AdditionalData(header, cluster, []byte("abc"))
	if len(base) != envelope.AdditionalDataSize {
		t.Errorf("%d bytes", len(base))
	}
	if !bytes.Equal(envelope.AdditionalData(header, cluster, nil), envelope.AdditionalData(header, cluster, []byte{})) {
		t.Error("absent and empty context differ")
	}
	direct, version, id := header, header, header
	direct.Mode, version.Version, id.KeyID = envelope.Direct, 8, [16]byte{}
	for name, other := range map[string][]byte{
		"mode": envelope.AdditionalData(direct, cluster, []byte("abc")), "version": envelope.AdditionalData(version, cluster, []byte("abc")),
		"key": envelope.AdditionalData(id, cluster, []byte("abc")), "cluster": envelope.AdditionalData(header, [16]byte{}, []byte("abc")),
		"context": envelope.AdditionalData(header, cluster, []byte("abcd")), "branch": envelope.WrapAdditionalData(header, cluster),
	} {
		if bytes.Equal(base, other) {
			t.Errorf("%s is not bound", name)
		}
	}
}

func TestModeReadsWhatItWrites(t *testing.T) {
	for _, m := range []envelope.Mode{envelope.Direct, envelope.Branch} {
		if got, err := envelope.ParseMode(m.String()); err != nil || got != m {
			t.Errorf("%v is read as %v, error %v", m, got, err)
		}
	}
	for _, s := range []string{"", "Direct", "branch ", "mode 3"} {
		if m, err := envelope.ParseMode(s); err == nil || m != 0 {
			t.Errorf("%q is read as %v", s, m)
		}
	}
	if s := envelope.Mode(0).String() + envelope.Mode(3).String(); s != "mode 3" {
		t.Errorf("unknown modes are %q", s)
	}
}

func ExampleParse() {
	h := envelope.Header{Mode: envelope.Direct, KeyID: [16]byte{0xab}, Version: 3}
	ciphertext := append(h.Append(nil), "what the root of trust made"...)
	got, body, err := envelope.Parse(ciphertext)
	fmt.Println(got.Mode, got.Version, len(body), err)
	// Output: direct 3 27 <nil>
}

// A branch key is made, wrapped by the root of trust, and used for many DEKs;
// any node opens them after it has had the branch key unwrapped.
func ExampleAppendBranch() {
	branchKey, wrappedByRoot := new([envelope.KeySize]byte), []byte("what the root made of the branch key")
	aead, err := envelope.NewBranchAEAD(branchKey)
	if err != nil {
		fmt.Println(err)
		return
	}
	cluster, context := [16]byte{1}, []byte(`{"bucket":"bucket/object"}`)
	h := envelope.Header{Mode: envelope.Branch, KeyID: [16]byte{0xab}, Version: 3}
	ciphertext := envelope.AppendBranch(nil, h, cluster, wrappedByRoot, aead, []byte("a data key"), context)

	got, body, err := envelope.Parse(ciphertext)
	if err != nil {
		fmt.Println(err)
		return
	}
	wrapped, sealed, err := envelope.ParseBranch(body)
	if err != nil {
		fmt.Println(err)
		return
	}
	plaintext, err := envelope.OpenBranch(nil, got, cluster, wrapped, aead, sealed, context)
	fmt.Printf("%s %v\n", plaintext, err)
	_, err = envelope.OpenBranch(nil, got, cluster, wrapped, aead, sealed, []byte("another context"))
	fmt.Println(err)
	// Output:
	// a data key <nil>
	// envelope: ciphertext is not authentic
}
