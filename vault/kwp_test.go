package vault

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"
)

// RFC 5649 section 6.
func TestKeyWrapOfTheRFC(t *testing.T) {
	kek := unhex(t, "5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
	for key, want := range map[string]string{
		"c37b7e6492584340bed12207808941155068f738": "138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a",
		"466f7250617369": "afbeb0f07dfbf5419200f2ccb50bb24f",
	} {
		if got, err := wrapPadded(kek, unhex(t, key)); err != nil || !bytes.Equal(got, unhex(t, want)) {
			t.Errorf("%s: got %x, error %v, want %s", key, got, err, want)
		}
	}
}

func TestKeyWrapOfWycheproof(t *testing.T) {
	text, err := fs.ReadFile(wycheproof.TestVectors, "aes_kwp_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		TestGroups []struct {
			Tests []struct {
				TcID            int
				Key, Msg, Ct    string
				Result, Comment string
			}
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	valid := 0
	for _, group := range file.TestGroups {
		for _, v := range group.Tests {
			if v.Result != "valid" {
				continue // they are of unwrapping
			}
			valid++
			if got, err := wrapPadded(unhex(t, v.Key), unhex(t, v.Msg)); err != nil || hex.EncodeToString(got) != v.Ct {
				t.Errorf("case %d (%s): got %x, error %v, want %s", v.TcID, v.Comment, got, err, v.Ct)
			}
		}
	}
	if valid < 20 {
		t.Errorf("only %d valid cases were found", valid)
	}
}

func TestKeyWrapRefusesSizes(t *testing.T) {
	for _, n := range []int{0, 4097} {
		if _, err := wrapPadded(make([]byte, 32), make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes was wrapped", n)
		}
	}
	if _, err := wrapPadded(make([]byte, 31), make([]byte, 32)); err == nil {
		t.Error("a KEK of 31 bytes was taken")
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
