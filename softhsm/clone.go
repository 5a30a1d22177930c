package softhsm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Clone makes a second token with the same objects and PIN, under another label and
// serial number: what the cloning of an HSM's maker does. No library of this process
// that uses SoftHSM may be initialised: the next one sees the new token. It lasts
// until the test ends.
func Clone(tb testing.TB, f Fixture) Fixture {
	tb.Helper()
	dir := f.directory(tb)
	clone := f
	clone.Label = "test-" + random(8)
	// Made beside the tokens: a library that is initialised meanwhile writes into each
	// token that it sees.
	to := filepath.Join(filepath.Dir(f.Tokens), "clone-"+random(8))
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		tb.Fatal("softhsm: ", err)
	}
	path := filepath.Join(to, "token.object")
	object, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal("softhsm: ", err)
	}
	serial := []byte(filepath.Base(dir)[19:]) // the last 17 characters of the UUID, of which one is -
	serial = bytes.ReplaceAll(serial, []byte("-"), nil)
	if !bytes.Contains(object, []byte(f.Label)) || !bytes.Contains(object, serial) {
		tb.Fatalf("softhsm: %s is not as expected", path)
	}
	object = bytes.ReplaceAll(object, []byte(f.Label), []byte(clone.Label))
	object = bytes.ReplaceAll(object, serial, []byte(random(8)))
	if err := os.WriteFile(path, object, 0o600); err != nil {
		tb.Fatal("softhsm: ", err)
	}
	if err := os.Rename(to, filepath.Join(f.Tokens, filepath.Base(to))); err != nil {
		tb.Fatal("softhsm: ", err)
	}
	return clone
}

// directory returns where SoftHSM keeps the token.
func (f Fixture) directory(tb testing.TB) string {
	tb.Helper()
	objects, err := filepath.Glob(filepath.Join(f.Tokens, "*", "token.object"))
	if err != nil {
		tb.Fatal("softhsm: ", err)
	}
	for _, path := range objects {
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(f.Label)) {
			return filepath.Dir(path)
		}
	}
	tb.Fatalf("softhsm: no token %s in %s", f.Label, f.Tokens)
	return ""
}

// Remove takes the token out of SoftHSM's directory, as if it had been unplugged, and
// returns what brings it back. A library that is initialised notices neither.
func (f Fixture) Remove(tb testing.TB) (bringBack func()) {
	tb.Helper()
	dir := f.directory(tb)
	away := filepath.Join(filepath.Dir(f.Tokens), "removed-"+filepath.Base(dir))
	if err := os.Rename(dir, away); err != nil {
		tb.Fatal("softhsm: ", err)
	}
	return func() {
		tb.Helper()
		if err := os.Rename(away, dir); err != nil {
			tb.Fatal("softhsm: ", err)
		}
	}
}

// CopyOfModule returns the path of a copy of the library: a process can load both,
// and each has tokens, sessions and a login of its own.
func CopyOfModule(tb testing.TB, f Fixture) string {
	tb.Helper()
	b, err := os.ReadFile(f.Module)
	if err != nil {
		tb.Fatal("softhsm: ", err)
	}
	path := filepath.Join(tb.TempDir(), "libsofthsm2.so")
	if err := os.WriteFile(path, b, 0o700); err != nil {
		tb.Fatal("softhsm: ", err)
	}
	return path
}
