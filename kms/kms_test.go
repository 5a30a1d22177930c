package kms_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keygate/keygate/envelope"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/memory"
	"github.com/keygate/keygate/kms"
)

var cluster = kms.ClusterID{0xc1, 0xc2}

// A clock is moved by hand.
type clock struct{ ns atomic.Int64 }

func (c *clock) now() time.Time              { return time.Unix(0, c.ns.Load()) }
func (c *clock) advance(d time.Duration)     { c.ns.Add(int64(d)) }
func newClock() *clock                       { c := new(clock); c.ns.Store(1.7e18); return c }
func config(c *clock) kms.Config             { return kms.Config{Cluster: cluster, Now: c.now, Logger: quiet()} }
func quiet() *slog.Logger                    { return slog.New(slog.NewTextHandler(io.Discard, nil)) }
func is(t *testing.T, err error, want error) { t.Helper(); mustIs(t, err, want) }

func mustIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, not %v", err, want)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, cfg kms.Config, store keystore.Store) *kms.KMS {
	t.Helper()
	k, err := kms.New(cfg, hsmtest.Root(t), store)
	ok(t, err)
	return k
}

// inModes runs a test in each mode, on a KMS of its own.
func inModes(t *testing.T, test func(t *testing.T, k *kms.KMS, mode envelope.Mode)) {
	for _, mode := range []envelope.Mode{envelope.Direct, envelope.Branch} {
		t.Run(mode.String(), func(t *testing.T) {
			cfg := config(newClock())
			cfg.Mode = mode
			test(t, open(t, cfg, memory.New()), mode)
		})
	}
}

func TestDataKeyRoundTrip(t *testing.T) { inModes(t, testDataKeyRoundTrip) }

func testDataKeyRoundTrip(t *testing.T, k *kms.KMS, mode envelope.Mode) {
	ctx := t.Context()
	size := map[envelope.Mode]int{envelope.Direct: 84, envelope.Branch: 146}[mode]
	info, err := k.CreateKey(ctx, "app-1", "someone")
	ok(t, err)
	if info.Name != "app-1" || info.Version != 1 || info.State != kms.Enabled || info.CreatedBy != "someone" || info.Created.IsZero() || info.Imported {
		t.Errorf("info is %+v", info)
	}
	for _, additionalData := range [][]byte{nil, []byte("{}"), bytes.Repeat([]byte{7}, 100_000)} {
		dek, ciphertext, use, err := k.GenerateDataKey(ctx, "app-1", additionalData)
		ok(t, err)
		if len(dek) != kms.DataKeySize || len(ciphertext) != size {
			t.Errorf("DEK of %d bytes, ciphertext of %d", len(dek), len(ciphertext))
		}
		if use != (kms.Use{KeyID: info.ID, Version: 1, Mode: mode}) {
			t.Errorf("use is %+v", use)
		}
		got, use, err := k.Decrypt(ctx, "app-1", ciphertext, additionalData)
		ok(t, err)
		if !bytes.Equal(got, dek) || use.Version != 1 {
			t.Error("decrypts to something else")
		}
		_, _, err = k.Decrypt(ctx, "app-1", ciphertext, append(slices.Clone(additionalData), 'x'))
		is(t, err, kms.ErrCiphertext)
	}
}

func TestEncryptTakesEverySize(t *testing.T) { inModes(t, testEncryptTakesEverySize) }

func testEncryptTakesEverySize(t *testing.T, k *kms.KMS, mode envelope.Mode) {
	ctx := t.Context()
	_, err := k.CreateKey(ctx, "app-1", "")
	ok(t, err)
	for _, n := range []int{0, 1, 16, 32, 4095, 4096, 4097, 65536, 750_000} {
		plaintext := bytes.Repeat([]byte{1}, n)
		c, use, err := k.Encrypt(ctx, "app-1", plaintext, []byte("ctx"))
		ok(t, err)
		if use.Mode != mode {
			t.Errorf("%d bytes: mode %v", n, use.Mode)
		}
		got, _, err := k.Decrypt(ctx, "app-1", c, []byte("ctx"))
		ok(t, err)
		if !bytes.Equal(got, plaintext) {
			t.Errorf("%d bytes: decrypts to something else", n)
		}
		_, _, err = k.Decrypt(ctx, "app-1", c, nil)
		is(t, err, kms.ErrCiphertext)
	}
}

func TestCR08_CiphertextsAreBoundToKeyAndContext(t *testing.T) { inModes(t, testCR08) }

func testCR08(t *testing.T, k *kms.KMS, _ envelope.Mode) {
	ctx := t.Context()
	for _, name := range []string{"a", "b"} {
		_, err := k.CreateKey(ctx, name, "")
		ok(t, err)
	}
	_, c, _, err := k.GenerateDataKey(ctx, "a", []byte("abc"))
	ok(t, err)
	for _, other := range []struct{ name, context string }{{"b", "abc"}, {"a", ""}, {"a", "ab"}, {"a", "abcd"}, {"a", "ABC"}} {
		_, _, err := k.Decrypt(ctx, other.name, c, []byte(other.context))
		is(t, err, kms.ErrCiphertext)
	}
	if _, _, err := k.Decrypt(ctx, "a", c, []byte("abc")); err != nil {
		t.Fatal(err)
	}
}

func TestCR09_ChangedCiphertextsAreRefused(t *testing.T) { inModes(t, testCR09) }

func testCR09(t *testing.T, k *kms.KMS, _ envelope.Mode) {
	ctx := t.Context()
	_, err := k.CreateKey(ctx, "a", "")
	ok(t, err)
	_, c, _, err := k.GenerateDataKey(ctx, "a", nil)
	ok(t, err)
	refused := func(what string, changed []byte) {
		t.Helper()
		p, _, err := k.Decrypt(ctx, "a", changed, nil)
		if !errors.Is(err, kms.ErrCiphertext) || p != nil {
			t.Fatalf("%s: plaintext of %d bytes, error %v", what, len(p), err)
		}
	}
	for n := range c {
		refused(fmt.Sprintf("truncated to %d", n), c[:n])
	}
	for n := 1; n <= 64; n++ {
		refused(fmt.Sprintf("extended by %d", n), append(slices.Clone(c), make([]byte, n)...))
	}
	for bit := range len(c) * 8 {
		changed := slices.Clone(c)
		changed[bit/8] ^= 1 << (bit % 8)
		refused(fmt.Sprintf("bit %d", bit), changed)
	}
	refused("doubled", append(slices.Clone(c), c...))
}

func TestMACIsStableAndItsOwn(t *testing.T) {
	ctx := t.Context()
	k := open(t, config(newClock()), memory.New())
	imported := bytes.Repeat([]byte{9}, 32)
	_, err := k.ImportKey(ctx, "a", "", imported)
	ok(t, err)
	_, err = k.CreateKey(ctx, "b", "")
	ok(t, err)
	first, _, err := k.MAC(ctx, "a", []byte("m"))
	ok(t, err)
	again, _, err := k.MAC(ctx, "a", []byte("m"))
	ok(t, err)
	other, _, err := k.MAC(ctx, "b", []byte("m"))
	ok(t, err)
	h := hmac.New(sha256.New, imported)
	h.Write([]byte("m"))
	if first != again || first == other || bytes.Equal(h.Sum(nil), first[:]) {
		t.Error("the MAC key is not stable, or not random, or the imported key itself")
	}
}

// ofKES returns a key and a ciphertext that KES made under it, of 32 bytes 0x11 with
// the context {"bucket":"bucket/object"}.
func ofKES(t *testing.T) (key, ciphertext []byte) {
	t.Helper()
	for i := range kms.KeySize {
		key = append(key, byte(i))
	}
	ciphertext, err := base64.StdEncoding.DecodeString("e/un4UG8QqWpJ5MgeoNCJKvvhfUHzgAWAn/UyTB/Go+sll7dGO58XlxLP+HyW7ibqqqqqqqqqqqqqqqqqqqqqru7u7u7u7u7u7u7uw==")
	ok(t, err)
	return key, ciphertext
}

func TestImportedKeyOpensKESCiphertexts(t *testing.T) {
	ctx := t.Context()
	k := open(t, config(newClock()), memory.New())
	key, c := ofKES(t)
	_, err := k.ImportKey(ctx, "a", "", key)
	ok(t, err)
	p, use, err := k.Decrypt(ctx, "a", c, []byte(`{"bucket":"bucket/object"}`))
	ok(t, err)
	if !bytes.Equal(p, bytes.Repeat([]byte{0x11}, 32)) || use.Version != 0 {
		t.Errorf("decrypts to %x, use %+v", p, use)
	}
	_, _, err = k.Decrypt(ctx, "a", c, nil)
	is(t, err, kms.ErrCiphertext)
	// New ciphertexts under it are ours, and a key that was made here opens none of KES.
	_, ours, use, err := k.GenerateDataKey(ctx, "a", nil)
	ok(t, err)
	if _, _, err := envelope.Parse(ours); err != nil || use.Version != 1 {
		t.Errorf("new ciphertext: %v, version %d", err, use.Version)
	}
	_, err = k.CreateKey(ctx, "b", "")
	ok(t, err)
	_, _, err = k.Decrypt(ctx, "b", c, []byte(`{"bucket":"bucket/object"}`))
	is(t, err, kms.ErrCiphertext)
	_, err = k.ImportKey(ctx, "c", "", key[:31])
	is(t, err, kms.ErrKeySize)
	_, err = k.DescribeKey(ctx, "c")
	is(t, err, kms.ErrKeyNotFound)
}

func TestDeleteEndsUseAndLosesNothing(t *testing.T) {
	ctx := t.Context()
	c := newClock()
	k := open(t, config(c), memory.New())
	created, err := k.CreateKey(ctx, "a", "")
	ok(t, err)
	_, ciphertext, _, err := k.GenerateDataKey(ctx, "a", nil)
	ok(t, err)

	info, err := k.DeleteKey(ctx, "a")
	ok(t, err)
	if info.State != kms.PendingDeletion || !info.DeleteAfter.Equal(c.now().Add(kms.DefaultDeletionWindow)) {
		t.Errorf("info is %+v", info)
	}
	_, _, _, err = k.GenerateDataKey(ctx, "a", nil)
	is(t, err, kms.ErrPendingDeletion)
	_, _, err = k.Decrypt(ctx, "a", ciphertext, nil)
	is(t, err, kms.ErrPendingDeletion)
	_, _, err = k.Encrypt(ctx, "a", nil, nil)
	is(t, err, kms.ErrPendingDeletion)
	_, _, err = k.MAC(ctx, "a", nil)
	is(t, err, kms.ErrPendingDeletion)
	_, err = k.CreateKey(ctx, "a", "")
	is(t, err, kms.ErrPendingDeletion)
	_, err = k.ImportKey(ctx, "a", "", make([]byte, 32))
	is(t, err, kms.ErrPendingDeletion)

	info, err = k.DescribeKey(ctx, "a")
	ok(t, err)
	if info.ID != created.ID || info.State != kms.PendingDeletion {
		t.Errorf("info is %+v", info)
	}
	c.advance(24 * time.Hour)
	again, err := k.DeleteKey(ctx, "a")
	ok(t, err)
	if !again.DeleteAfter.Equal(info.DeleteAfter) {
		t.Error("a second delete moved the window")
	}
	names, err := k.ListKeys(ctx, "")
	ok(t, err)
	if !slices.Equal(names, []string{"a"}) {
		t.Errorf("names are %q", names)
	}
	_, err = k.DeleteKey(ctx, "b")
	is(t, err, kms.ErrKeyNotFound)
}

func TestDeleteWithoutAWindowIsAsInKES(t *testing.T) {
	ctx := t.Context()
	cfg := config(newClock())
	cfg.DeletionWindow = -1
	k := open(t, cfg, memory.New())
	first, err := k.CreateKey(ctx, "a", "")
	ok(t, err)
	_, ciphertext, _, err := k.GenerateDataKey(ctx, "a", nil)
	ok(t, err)
	_, err = k.DeleteKey(ctx, "a")
	ok(t, err)
	_, _, _, err = k.GenerateDataKey(ctx, "a", nil)
	is(t, err, kms.ErrKeyNotFound)
	_, err = k.DeleteKey(ctx, "a")
	is(t, err, kms.ErrKeyNotFound)
	second, err := k.CreateKey(ctx, "a", "")
	ok(t, err)
	if second.ID == first.ID {
		t.Error("a key id was used again")
	}
	_, _, err = k.Decrypt(ctx, "a", ciphertext, nil)
	is(t, err, kms.ErrCiphertext)
}

func TestNames(t *testing.T) {
	ctx := t.Context()
	k := open(t, config(newClock()), memory.New())
	for _, name := range []string{"", "../x", "a/b", ".", "..", "a.b", "-a", "a-", "_", "a\x00b", "ä"} {
		_, err := k.CreateKey(ctx, name, "")
		is(t, err, kms.ErrName)
		_, err = k.DescribeKey(ctx, name)
		is(t, err, kms.ErrName)
		_, err = k.DeleteKey(ctx, name)
		is(t, err, kms.ErrName)
		_, _, _, err = k.GenerateDataKey(ctx, name, nil)
		is(t, err, kms.ErrName)
	}
	_, err := k.CreateKey(ctx, "a", "")
	ok(t, err)
	_, err = k.CreateKey(ctx, "a", "")
	is(t, err, kms.ErrKeyExists)
	_, _, _, err = k.GenerateDataKey(ctx, "b", nil)
	is(t, err, kms.ErrKeyNotFound)
}

func TestKS15_OneOfManyCreatesWins(t *testing.T) {
	ctx := t.Context()
	store, root := memory.New(), hsmtest.Root(t)
	var nodes []*kms.KMS
	for range 8 {
		k, err := kms.New(kms.Config{Cluster: cluster, Logger: quiet()}, root, store)
		ok(t, err)
		nodes = append(nodes, k)
	}
	for round := range 20 {
		name := fmt.Sprintf("key-%d", round)
		var won atomic.Int32
		var id atomic.Value
		var wg sync.WaitGroup
		for _, k := range nodes {
			wg.Go(func() {
				info, err := k.CreateKey(ctx, name, "")
				switch {
				case err == nil:
					won.Add(1)
					id.Store(info.ID)
				case !errors.Is(err, kms.ErrKeyExists):
					t.Errorf("a loser got %v", err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d winners", won.Load())
		}
		_, ciphertext, _, err := nodes[0].GenerateDataKey(ctx, name, nil)
		ok(t, err)
		for _, k := range nodes {
			_, use, err := k.Decrypt(ctx, name, ciphertext, nil)
			ok(t, err)
			if use.KeyID != id.Load() {
				t.Fatal("a node uses another key id")
			}
		}
	}
}

func TestStatusNamesWhatIsDown(t *testing.T) {
	store := &faulty{Store: memory.New()}
	k := open(t, config(newClock()), store)
	if s := k.Status(t.Context()); s.Root != nil || s.Store != nil {
		t.Errorf("status is %+v", s)
	}
	store.fail.Store(true)
	if s := k.Status(t.Context()); s.Root != nil || s.Store == nil {
		t.Errorf("status is %+v", s)
	}
}

// faulty is a store that can be told to be unreachable. It counts its reads.
type faulty struct {
	keystore.Store
	fail  atomic.Bool
	reads atomic.Int64
	delay time.Duration
}

func (f *faulty) Get(ctx context.Context, name string) ([]byte, keystore.Revision, error) {
	f.reads.Add(1)
	time.Sleep(f.delay)
	if f.fail.Load() {
		return nil, "", keystore.ErrUnavailable
	}
	return f.Store.Get(ctx, name)
}

func (f *faulty) Status(ctx context.Context) error {
	if f.fail.Load() {
		return keystore.ErrUnavailable
	}
	return f.Store.Status(ctx)
}

// An ailing root has a bug in Status.
type ailing struct{ kms.Root }

func (ailing) Status(context.Context) error { panic("a bug") }

func TestAPanicInAStatusIsAnError(t *testing.T) {
	k, err := kms.New(config(newClock()), ailing{hsmtest.Root(t)}, memory.New())
	ok(t, err)
	if s := k.Status(t.Context()); s.Root == nil {
		t.Error("the root is taken for well")
	}
}
