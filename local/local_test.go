package local_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
	"github.com/keygate/keygate/local"
)

func TestRoot(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root { return open(t, newFile(t)) })
}

func newFile(t *testing.T) local.Config {
	t.Helper()
	cfg := local.Config{File: filepath.Join(t.TempDir(), "root.key")}
	if made, err := local.Init(cfg); err != nil || !made {
		t.Fatalf("init: made %t, error %v", made, err)
	}
	return cfg
}

func open(t *testing.T, cfg local.Config) *local.Root {
	t.Helper()
	r, err := local.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestInitIsDurableOwnAndNeverOverwrites(t *testing.T) {
	cfg := newFile(t)
	before, err := os.ReadFile(cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	if made, err := local.Init(cfg); made || err != nil {
		t.Errorf("a second init: made %t, error %v", made, err)
	}
	after, _ := os.ReadFile(cfg.File)
	if !bytes.Equal(before, after) {
		t.Error("a second init changed the root key")
	}
	info, err := os.Stat(cfg.File)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	files, _ := os.ReadDir(filepath.Dir(cfg.File))
	if len(files) != 1 {
		t.Errorf("init left %d files", len(files))
	}
	other := newFile(t)
	if text, _ := os.ReadFile(other.File); bytes.Equal(text, before) {
		t.Error("two root keys are the same")
	}
}

func TestOfConcurrentInitsOneMakesTheKey(t *testing.T) {
	cfg := local.Config{File: filepath.Join(t.TempDir(), "root.key")}
	var wg sync.WaitGroup
	made := make(chan bool, 16)
	for range cap(made) {
		wg.Go(func() {
			m, err := local.Init(cfg)
			if err != nil {
				t.Error(err)
			}
			made <- m
		})
	}
	wg.Wait()
	close(made)
	n := 0
	for m := range made {
		if m {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d of them made a key", n)
	}
}

func TestInitLeavesWhatIsNoRootKeyAlone(t *testing.T) {
	cfg := local.Config{File: filepath.Join(t.TempDir(), "root.key")}
	if err := os.WriteFile(cfg.File, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if made, err := local.Init(cfg); made || err == nil {
		t.Errorf("made %t, error %v", made, err)
	}
	if text, _ := os.ReadFile(cfg.File); string(text) != "precious" {
		t.Error("it was overwritten")
	}
	if _, err := local.Init(local.Config{File: filepath.Join(t.TempDir(), "none", "root.key")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in no directory: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	good, err := os.ReadFile(newFile(t).File)
	if err != nil {
		t.Fatal(err)
	}
	digits := string(good[len(good)-65 : len(good)-1])
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"readable by the group": {string(good), 0o640, "others may use it (mode 0640)"},
		"readable by all":       {string(good), 0o604, "others may use it (mode 0604)"},
		"empty":                 {"", 0o600, "no root key"},
		"cut":                   {string(good[:len(good)-1]), 0o600, "no root key"},
		"longer":                {string(good) + "\n", 0o600, "no root key"},
		"another format":        {strings.Replace(string(good), "key 1", "key 2", 1), 0o600, "no root key"},
		"no hex":                {strings.Replace(string(good), digits[:4], "zzzz", 1), 0o600, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "root.key")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := local.Open(local.Config{File: file})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, without %q", err, c.want)
			}
			if strings.Contains(err.Error(), digits[8:16]) {
				t.Error("the error tells digits of the key")
			}
		})
	}
	dir := t.TempDir()
	if _, err := local.Open(local.Config{File: dir}); err == nil {
		t.Error("a directory opens")
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(newFile(t).File, link); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(local.Config{File: link}); err == nil {
		t.Error("a symbolic link opens")
	}
	if _, err := local.Open(local.Config{}); err == nil {
		t.Error("no file opens")
	}
}

// What one process wraps, another with the same file opens, and one with another
// file calls corrupt.
func TestHandlesOutliveTheProcess(t *testing.T) {
	cfg, ctx := newFile(t), t.Context()
	one, two, other := open(t, cfg), open(t, cfg), open(t, newFile(t))
	handle, err := one.NewKey(ctx, kms.KeyID{1}, kms.Encryption)
	if err != nil {
		t.Fatal(err)
	}
	ciphertext, err := one.Encrypt(ctx, handle, []byte("plaintext"), []byte("ad"))
	if err != nil {
		t.Fatal(err)
	}
	if p, err := two.Decrypt(ctx, handle, ciphertext, []byte("ad")); err != nil || string(p) != "plaintext" {
		t.Errorf("the same root key: %q, %v", p, err)
	}
	if _, err := other.Decrypt(ctx, handle, ciphertext, []byte("ad")); !errors.Is(err, kms.ErrCorrupt) {
		t.Errorf("another root key: %v", err)
	}
	macs := make(map[[kms.MACSize]byte]bool)
	for _, r := range []*local.Root{one, two, other} {
		sum, err := r.MAC(ctx, nil, []byte("record"))
		if err != nil {
			t.Fatal(err)
		}
		macs[sum] = true
	}
	if len(macs) != 2 {
		t.Errorf("%d record keys of two root keys", len(macs))
	}
}

func TestNothingPrintsTheKeyAndNothingWorksAfterClose(t *testing.T) {
	cfg := newFile(t)
	r, ctx := open(t, cfg), context.Background()
	text, _ := os.ReadFile(cfg.File)
	digits := string(text[len(text)-65 : len(text)-1])
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if s := fmt.Sprintf(verb, r); strings.Contains(s, digits[:8]) || !strings.Contains(s, "local.Root") {
			t.Errorf("%s prints %s", verb, s)
		}
	}
	handle, err := r.NewKey(ctx, kms.KeyID{}, kms.Encryption)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	_, encrypt := r.Encrypt(ctx, handle, nil, nil)
	_, mac := r.MAC(ctx, nil, nil)
	for call, err := range map[string]error{"encrypt": encrypt, "mac": mac, "status": r.Status(ctx), "close": r.Close()} {
		if want := kms.ErrUnavailable; call != "close" && !errors.Is(err, want) || call == "close" && err != nil {
			t.Errorf("%s after close: %v", call, err)
		}
	}
}

// What one release wrapped and encrypted, every later one opens.
func TestGoldenHandles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "root.key")
	text := "keygate local root key 1\n000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r, ctx := open(t, local.Config{File: file}), t.Context()
	plaintext, err := r.Decrypt(ctx,
		unhex(t, "010101020300000000000000000000000000675baa0dc700eeed917059b316fceeed210a628fe5b121f867508b9cea069cc44bba33e74b6bb3561f994c081c89322cfd09377868f62fbfa31c7b50336e6cc2984553a14e8bc1530094a32c"),
		unhex(t, "bdd072f558814ddc8ce86cc19c4d7e19747d9a62c41bb2d682d0932b0e71e02111f2beb30b"), []byte("data"))
	if err != nil || string(plaintext) != "plaintext" {
		t.Errorf("%q, %v", plaintext, err)
	}
	sum, err := r.MAC(ctx,
		unhex(t, "0102010203000000000000000000000000004b01bb8c0cd1c586c5872c8f57a831c49589c3c0d5eea92d56fae57c50026d80f415d0c80a89b8ed64b266067e5831664cb31525f757f32d7d54a367d200a1b669b9f92a81af3ffe4c6ecd23"),
		[]byte("message"))
	want := hmac.New(sha256.New, []byte("an imported key of thirty-two by"))
	want.Write([]byte("message"))
	if err != nil || !hmac.Equal(sum[:], want.Sum(nil)) {
		t.Errorf("MAC is %x, %v", sum, err)
	}
	sum, err = r.MAC(ctx, nil, []byte("record"))
	if got := hex.EncodeToString(sum[:]); err != nil || got != "5f5d9a6f2c4a00f88955b5c67d99c7b763bc435dcebacc03c7a9d037ec8419a5" {
		t.Errorf("the record key's MAC is %s, %v", got, err)
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
