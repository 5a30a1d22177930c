package fs

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keygate/keygate/keystore"
)

// A store as it was once written, field by field as in the comments of record.go,
// name.go and identity.go. No change of the code may change these: what was
// stored opens for ever.
const (
	goldenIdentity = "keygate key store 1\ntest-cluster\n"
	goldenFile     = "%app-1.record"                                                        // of the name App-1
	goldenRecord   = "6b65796761746501" + "000102030405060708090a0b0c0d0e0f" + "00000013" + // magic, revision, length
		"35eaf2c1a28d069dcf70818eb2cb3ec2b7452a97685dd7c3cc1faa8c0550f8cf" +
		"746865207265636f7264206f662061206b6579" // "the record of a key"
)

func TestCR15_AStoreOfVersion1Opens(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	must(t, os.Mkdir(dir, 0o700))
	file, err := hex.DecodeString(goldenRecord)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "identity"), []byte(goldenIdentity), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, goldenFile), file, 0o600))
	s, err := Open(Config{Path: dir}, "test-cluster")
	must(t, err)
	defer s.Close()

	record, rev, err := s.Get(t.Context(), "App-1")
	must(t, err)
	if string(record) != "the record of a key" || rev != keystore.Revision("000102030405060708090a0b0c0d0e0f") {
		t.Errorf("got %q of revision %s", record, rev)
	}
	names, err := s.List(t.Context(), "", "", 10)
	must(t, err)
	if !slices.Equal(names, []string{"App-1"}) {
		t.Errorf("names are %q", names)
	}
	must(t, s.Update(t.Context(), "App-1", []byte("another"), rev))
}

// TestCR15_AStoreIsWrittenAsVersion1 holds the writer to the same: a store that
// is made now has these names and this identity.
func TestCR15_AStoreIsWrittenAsVersion1(t *testing.T) {
	cfg := Config{Path: filepath.Join(t.TempDir(), "store")}
	must(t, Init(cfg, "test-cluster"))
	s, err := Open(cfg, "test-cluster")
	must(t, err)
	defer s.Close()
	must(t, s.Create(t.Context(), "App-1", []byte("the record of a key")))

	identity, err := os.ReadFile(filepath.Join(cfg.Path, "identity"))
	must(t, err)
	if string(identity) != goldenIdentity {
		t.Errorf("identity is %q", identity)
	}
	file, err := os.ReadFile(filepath.Join(cfg.Path, goldenFile))
	must(t, err)
	golden, err := hex.DecodeString(goldenRecord)
	must(t, err)
	if len(file) != len(golden) || !slices.Equal(file[:revOffset], golden[:revOffset]) ||
		!slices.Equal(file[lenOffset:sumOffset], golden[lenOffset:sumOffset]) || !slices.Equal(file[headerSize:], golden[headerSize:]) {
		t.Errorf("the file is %x, not but for revision and checksum %x", file, golden)
	}
}
