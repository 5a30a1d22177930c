// Package nss makes tokens of NSS softokn for tests: a PKCS#11 implementation that
// shares no code with SoftHSM's.
//
// softokn takes the directory of its database as an argument of C_Initialize, so a
// process has one at a time: tests that use Token must not run in parallel.
package nss

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/keygate/keygate/hsm"
)

// Label is the label of the token that keeps keys. The one before it, "NSS Generic
// Crypto Services", keeps none.
const Label = "NSS Certificate DB"

// inUse guards the one database of the process.
var inUse sync.Mutex

// Config returns the configuration of a new token without objects. It lasts until
// the test ends. Where NSS is not installed the test is skipped, or fails if the
// environment says CI=true.
func Config(tb testing.TB) hsm.Config {
	tb.Helper()
	module, err := module()
	if err != nil {
		missing(tb, err)
	}
	certutil, err := exec.LookPath("certutil")
	if err != nil {
		missing(tb, fmt.Errorf("nss: install libnss3-tools: %w", err))
	}
	if !inUse.TryLock() {
		tb.Fatal("nss: a process has one token at a time")
	}
	tb.Cleanup(inUse.Unlock)
	dir := tb.TempDir()
	pin := filepath.Join(dir, "pin")
	b := make([]byte, 8)
	rand.Read(b)
	if err := os.WriteFile(pin, []byte(hex.EncodeToString(b)+"\n"), 0o600); err != nil {
		tb.Fatal("nss: ", err)
	}
	database := "sql:" + dir
	if out, err := exec.CommandContext(tb.Context(), certutil, "-N", "-d", database, "-f", pin).CombinedOutput(); err != nil {
		tb.Fatalf("nss: certutil: %v: %s", err, out)
	}
	return hsm.Config{
		Module: module, Token: Label, PIN: hsm.PIN{File: pin},
		InitArgs: fmt.Sprintf("configdir='%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags=", database),
	}
}

func missing(tb testing.TB, err error) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(err)
	}
	tb.Skip(err)
}

// module returns the path of libsoftokn3.so: $SOFTOKN_MODULE, or where it is found.
func module() (string, error) {
	if path := os.Getenv("SOFTOKN_MODULE"); path != "" {
		return path, nil
	}
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"} {
		for _, place := range []string{dir, filepath.Join(dir, "nss")} {
			path := filepath.Join(place, "libsoftokn3.so")
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
	}
	return "", errors.New("nss: libsoftokn3.so not found: install libnss3 or set SOFTOKN_MODULE")
}
