// Package softhsm makes SoftHSM2 tokens for tests.
//
// libsofthsm2 reads SOFTHSM2_CONF when it is initialised, once for a process,
// and looks for tokens then. So all tokens of a test binary are in one
// directory, and each is made through the library as it runs in this process,
// which is how it learns of one while another test uses it.
package softhsm

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keygate/keygate/hsm"
)

// ConfEnv is the environment variable that names SoftHSM's configuration. Token
// sets it for this process; a child process needs it too.
const ConfEnv = "SOFTHSM2_CONF"

// A Fixture is an initialised token with a user PIN and no objects.
type Fixture struct {
	Module  string // path of the PKCS#11 module
	Label   string // of the token; no other has it
	PIN     string // of the user
	PINFile string // a file that holds the PIN and a newline, mode 0600
	SOPIN   string // of the security officer
	SOFile  string // likewise
	Conf    string // the value of ConfEnv
	Tokens  string // the directory that SoftHSM keeps its tokens in
}

// Token makes a token. It lasts until the test ends. Where SoftHSM is not
// installed the test is skipped, or fails if the environment says CI=true.
func Token(tb testing.TB) Fixture {
	tb.Helper()
	module, err := Module()
	if err != nil {
		missing(tb, err)
	}
	shelf := share(tb)
	f := Fixture{Module: module, Label: "test-" + random(8), PIN: random(8), SOPIN: random(8), Conf: shelf.conf, Tokens: shelf.tokens}
	dir := tb.TempDir()
	f.PINFile, f.SOFile = filepath.Join(dir, "pin"), filepath.Join(dir, "so-pin")
	for path, pin := range map[string]string{f.PINFile: f.PIN, f.SOFile: f.SOPIN} {
		if err := os.WriteFile(path, []byte(pin+"\n"), 0o600); err != nil {
			tb.Fatal("softhsm: ", err)
		}
	}
	if err := makeToken(tb, f); err != nil {
		tb.Fatal("softhsm: make a token: ", err)
	}
	return f
}

// making lets one token be made at a time: SoftHSM has one free slot.
var making sync.Mutex

func makeToken(tb testing.TB, f Fixture) error {
	making.Lock()
	defer making.Unlock()
	return hsm.InitToken(tb.Context(), f.Module, f.Label, f.SOPIN, f.PIN)
}

func missing(tb testing.TB, err error) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(err)
	}
	tb.Skip(err)
}

// places are where distributions put libsofthsm2.so.
var places = []string{
	"/usr/lib/softhsm", "/usr/lib/x86_64-linux-gnu/softhsm", "/usr/lib/aarch64-linux-gnu/softhsm",
	"/usr/lib64/softhsm", "/usr/lib64/pkcs11", "/usr/local/lib/softhsm", "/opt/homebrew/lib/softhsm",
}

// Module returns the path of libsofthsm2.so: $SOFTHSM2_MODULE, or where it is
// found.
func Module() (string, error) {
	if path := os.Getenv("SOFTHSM2_MODULE"); path != "" {
		return path, nil
	}
	for _, dir := range places {
		path := filepath.Join(dir, "libsofthsm2.so")
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("softhsm: libsofthsm2.so not found: install softhsm2 or set SOFTHSM2_MODULE")
}

func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
