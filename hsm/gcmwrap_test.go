package hsm_test

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
)

// gcmWraps returns the configuration of a new token behind testdata/gcmwrap.c,
// which wraps with AES-GCM as far as its parameters and sizes go.
func gcmWraps(t *testing.T) hsm.Config {
	t.Helper()
	cfg := hsmtest.Config(t)
	cc, err := exec.LookPath("cc")
	if err != nil {
		unable(t, err)
	}
	module := filepath.Join(t.TempDir(), "gcmwrap.so")
	out, err := exec.Command(cc, "-O1", "-shared", "-fPIC", `-DMODULE="`+cfg.Module+`"`, "-o", module, "testdata/gcmwrap.c", "-ldl").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cfg.Module, cfg.Wrapping = module, "aes-gcm"
	return cfg
}

func TestRootWithGCMWrapping(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root { return hsmtest.Open(t, gcmWraps(t)) })
}

func TestCR03_NoTwoKeysAreWrappedWithOneIV(t *testing.T) {
	cfg := gcmWraps(t)
	r := hsmtest.Open(t, cfg)
	seen := map[string]bool{}
	key := bytes.Repeat([]byte{1}, kms.KeySize)
	for range 50 {
		handle, err := r.ImportKey(t.Context(), kms.KeyID{1}, kms.Authentication, key)
		ok(t, err)
		if handle[1] != gcm || len(handle) != 29+60+16 {
			t.Fatalf("wrapping %d, %d bytes", handle[1], len(handle))
		}
		iv := string(handle[29 : 29+12])
		if seen[iv] || iv == string(make([]byte, 12)) {
			t.Fatalf("the IV %x again, or zero", iv)
		}
		seen[iv] = true
	}
	cfg.Wrapping = "" // and it is the last choice
	wrapsWith(t, hsmtest.Open(t, cfg), kw)
}
