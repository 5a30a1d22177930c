package fs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keygate/keygate/keystore"
)

// TestKS05_TornFileIsCorrupt puts every part and every damage of a record's file
// in its place.
func TestKS05_TornFileIsCorrupt(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "store")}
	must(t, Init(cfg, testIdentity))
	s, err := Open(cfg, testIdentity)
	must(t, err)
	defer s.Close()
	must(t, s.Create(t.Context(), "app", []byte("the record of a key, all of it")))
	_, rev, err := s.Get(t.Context(), "app")
	must(t, err)
	path := filepath.Join(cfg.Path, fileName("app"))
	whole, err := os.ReadFile(path)
	must(t, err)

	check := func(what string, k int, torn []byte) {
		t.Helper()
		must(t, os.WriteFile(path, torn, 0o600))
		if _, _, err := s.Get(t.Context(), "app"); !errors.Is(err, keystore.ErrCorrupt) {
			t.Errorf("%s %d: get: got %v, want ErrCorrupt", what, k, err)
		}
		if err := s.Update(t.Context(), "app", []byte("x"), rev); !errors.Is(err, keystore.ErrCorrupt) {
			t.Errorf("%s %d: update: got %v, want ErrCorrupt", what, k, err)
		}
		if err := s.Delete(t.Context(), "app", rev); !errors.Is(err, keystore.ErrCorrupt) {
			t.Errorf("%s %d: delete: got %v, want ErrCorrupt", what, k, err)
		}
		if err := s.Create(t.Context(), "app", []byte("x")); !errors.Is(err, keystore.ErrExists) {
			t.Errorf("%s %d: create: got %v, want ErrExists", what, k, err)
		}
		if now, _ := os.ReadFile(path); !bytes.Equal(now, torn) {
			t.Errorf("%s %d: the file was changed", what, k)
		}
	}
	for k := range whole {
		check("prefix of", k, whole[:k])
		zeroed := append(bytes.Clone(whole[:k]), make([]byte, len(whole)-k)...)
		check("zeros from", k, zeroed)
		flipped := bytes.Clone(whole)
		flipped[k] ^= 1
		check("bit flipped at", k, flipped)
	}
	check("bytes added:", 1, append(bytes.Clone(whole), 0))
	check("bytes:", maxFile+1, make([]byte, maxFile+1))
	must(t, os.WriteFile(path, whole, 0o600))
	if _, now, err := s.Get(t.Context(), "app"); err != nil || now != rev {
		t.Fatalf("the whole file again: got revision %s, %v", now, err)
	}
	must(t, os.Link(path, filepath.Join(cfg.Path, fileName("other"))))
	if _, _, err := s.Get(t.Context(), "other"); !errors.Is(err, keystore.ErrCorrupt) {
		t.Fatalf("the record of another name: got %v, want ErrCorrupt", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("app", []byte("record"))
	f.Add("A", []byte{})
	f.Fuzz(func(t *testing.T, name string, p []byte) {
		if _, _, err := decode(name, p); err != nil && !errors.Is(err, keystore.ErrCorrupt) {
			t.Fatalf("decode: %v", err)
		}
		got, rev, err := decode(name, encode(name, p))
		if err != nil || !bytes.Equal(got, p) || len(rev) != 2*revSize {
			t.Fatalf("round trip: got %q, %s, %v", got, rev, err)
		}
	})
}
