package mirror_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/kms/roottest"
	"github.com/keygate/keygate/local"
	"github.com/keygate/keygate/mirror"
	"github.com/keygate/keygate/vault"
	"github.com/keygate/keygate/vault/vaultapi"
	"github.com/keygate/keygate/vault/vaulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRoot(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root { return made(t, localMember(t), localMember(t)) })
}

func TestRootOfSoftHSMAndAFile(t *testing.T) {
	roottest.Run(t, func(t *testing.T) kms.Root { return made(t, softHSM(t), localMember(t)) })
}

func TestRootOfSoftHSMAndVault(t *testing.T) {
	core := vaulttest.Real(t)
	roottest.Run(t, func(t *testing.T) kms.Root { return made(t, softHSM(t), transit(t, core.Server)) })
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is checks that err is want, and no other error of a root.
func is(t *testing.T, err, want error) {
	t.Helper()
	for _, e := range []error{kms.ErrUnavailable, kms.ErrDenied, kms.ErrCorrupt, kms.ErrCiphertext, kms.ErrUnsupported, kms.ErrKeySize} {
		if errors.Is(err, e) != (e == want) {
			t.Fatalf("error is %v, not %v alone", err, want)
		}
	}
}

func localMember(t *testing.T) mirror.Member {
	t.Helper()
	cfg := local.Config{File: filepath.Join(t.TempDir(), "root.key")}
	if _, err := local.Init(cfg); err != nil {
		t.Fatal(err)
	}
	return mirror.Member{Kind: "local", Open: func(context.Context) (kms.Root, error) { return local.Open(cfg) }}
}

func softHSM(t *testing.T) mirror.Member {
	t.Helper()
	cfg := hsmtest.Config(t)
	return mirror.Member{Kind: "pkcs11", Open: func(ctx context.Context) (kms.Root, error) {
		r, err := hsm.Open(ctx, cfg, quiet())
		if err != nil {
			return nil, err
		}
		return r, nil
	}}
}

func transit(t *testing.T, s *vaulttest.Server) mirror.Member {
	t.Helper()
	cfg := vault.Config{Config: vaultapi.Config{Address: s.Address, TLS: vaultapi.TLS{CA: s.CAFile}, Auth: vaultapi.Auth{TokenFile: vaulttest.TokenFile(t, s.Root)}}}
	if _, err := vault.Init(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	return mirror.Member{Kind: "vault", Open: func(ctx context.Context) (kms.Root, error) {
		r, err := vault.Open(ctx, cfg, quiet())
		if err != nil {
			return nil, err
		}
		return r, nil
	}}
}

// made returns the mirror as a gateway has it, with its times.
func made(t *testing.T, first, second mirror.Member) *mirror.Root {
	t.Helper()
	return opened(t, mirror.Open, initialised(t, "", first, second), first, second)
}

func initialised(t *testing.T, degraded string, first, second mirror.Member) mirror.Config {
	t.Helper()
	cfg := mirror.Config{RecordKeyFile: filepath.Join(t.TempDir(), "record-key"), Degraded: degraded}
	if made, err := mirror.Init(t.Context(), cfg, [2]mirror.Member{first, second}, quiet()); err != nil || !made {
		t.Fatalf("init: made %t, %v", made, err)
	}
	return cfg
}

type opener func(context.Context, mirror.Config, [2]mirror.Member, *slog.Logger) (*mirror.Root, error)

func opened(t *testing.T, open opener, cfg mirror.Config, first, second mirror.Member) *mirror.Root {
	t.Helper()
	r, err := open(t.Context(), cfg, [2]mirror.Member{first, second}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// What can be wrong with a root.
type failure int32

const (
	well    failure = iota
	refuses         // every call fails at once
	hangs           // no call ends but with its context
	denies          // every call is refused by somebody's decision
	strange         // it is another root: it knows no key
	lies            // it decrypts, and computes MACs, to something else
	blind           // it says that each ciphertext is bad
	panics
)

// A frail root is another one that can be made to fail.
type frail struct {
	kms.Root
	failure atomic.Int32
}

func (f *frail) set(how failure) { f.failure.Store(int32(how)) }

// member is m with a root that f makes fail.
func (f *frail) member(m mirror.Member) mirror.Member {
	return mirror.Member{Kind: m.Kind, Final: m.Final, Open: func(ctx context.Context) (kms.Root, error) {
		if err := f.fail(ctx); err != nil {
			return nil, err
		}
		root, err := m.Open(ctx)
		f.Root = root
		return f, err
	}}
}

func (f *frail) fail(ctx context.Context) error {
	switch failure(f.failure.Load()) {
	case refuses:
		return kms.ErrUnavailable
	case hangs:
		<-ctx.Done()
		return errors.Join(kms.ErrUnavailable, ctx.Err())
	case denies:
		return kms.ErrDenied
	case strange:
		return kms.ErrCorrupt
	case panics:
		panic("a fault of a driver")
	}
	return nil
}

func (f *frail) NewKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose) ([]byte, error) {
	if err := f.fail(ctx); err != nil {
		return nil, err
	}
	return f.Root.NewKey(ctx, id, purpose)
}

func (f *frail) ImportKey(ctx context.Context, id kms.KeyID, purpose kms.Purpose, key []byte) ([]byte, error) {
	if err := f.fail(ctx); err != nil {
		return nil, err
	}
	return f.Root.ImportKey(ctx, id, purpose, key)
}

func (f *frail) Encrypt(ctx context.Context, handle, plaintext, additionalData []byte) ([]byte, error) {
	if err := f.fail(ctx); err != nil {
		return nil, err
	}
	return f.Root.Encrypt(ctx, handle, plaintext, additionalData)
}

func (f *frail) Decrypt(ctx context.Context, handle, ciphertext, additionalData []byte) ([]byte, error) {
	if err := f.fail(ctx); err != nil {
		return nil, err
	}
	b, err := f.Root.Decrypt(ctx, handle, ciphertext, additionalData)
	switch failure(f.failure.Load()) {
	case lies:
		if len(b) > 0 {
			b[0] ^= 1
		}
	case blind:
		return nil, kms.ErrCiphertext
	}
	return b, err
}

func (f *frail) MAC(ctx context.Context, handle, message []byte) ([kms.MACSize]byte, error) {
	if err := f.fail(ctx); err != nil {
		return [kms.MACSize]byte{}, err
	}
	mac, err := f.Root.MAC(ctx, handle, message)
	if failure(f.failure.Load()) == lies {
		mac[0] ^= 1
	}
	return mac, err
}

func (f *frail) Random(ctx context.Context, b []byte) error {
	if err := f.fail(ctx); err != nil {
		return err
	}
	return f.Root.Random(ctx, b)
}

func (f *frail) DestroyKey(ctx context.Context, handle []byte) error {
	if err := f.fail(ctx); err != nil {
		return err
	}
	return f.Root.DestroyKey(ctx, handle)
}

func (f *frail) Status(ctx context.Context) error {
	if err := f.fail(ctx); err != nil {
		return err
	}
	return f.Root.Status(ctx)
}

// A world is a mirror over two frail roots.
type world struct {
	*mirror.Root
	cfg   mirror.Config
	sides [2]*frail
	m     [2]mirror.Member
}

func newWorld(t *testing.T, degraded string, first, second mirror.Member) *world {
	t.Helper()
	w := &world{sides: [2]*frail{{}, {}}}
	w.m = [2]mirror.Member{w.sides[0].member(first), w.sides[1].member(second)}
	w.cfg = initialised(t, degraded, w.m[0], w.m[1])
	w.Root = opened(t, mirror.OpenQuick, w.cfg, w.m[0], w.m[1])
	return w
}

func locals(t *testing.T, degraded string) *world {
	t.Helper()
	return newWorld(t, degraded, localMember(t), localMember(t))
}

// until waits for a condition of the mirror.
func until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happened: %s", what)
		}
	}
}

// lose has a root fail, and waits until that is known.
func (w *world) lose(t *testing.T, i int, how failure) {
	t.Helper()
	w.sides[i].set(how)
	until(t, "a root is away", func() bool { return w.Stats().Roots[i].Away })
}

func (w *world) mend(t *testing.T) {
	t.Helper()
	for i := range w.sides {
		w.sides[i].set(well)
	}
	until(t, "both roots are back", func() bool { return len(w.Degraded()) == 0 })
}

// A sample is what a mirror has made.
type sample struct {
	encryption, authentication, imported []byte // handles
	ciphertexts                          [][]byte
	record, mac                          [kms.MACSize]byte
}

const samplePlaintext, sampleData = "a branch key of thirty-two bytes", "its context"

func (w *world) sample(t *testing.T) (s sample) {
	t.Helper()
	var err error
	s.encryption, err = w.NewKey(t.Context(), kms.KeyID{1}, kms.Encryption)
	ok(t, err)
	s.authentication, err = w.NewKey(t.Context(), kms.KeyID{2}, kms.Authentication)
	ok(t, err)
	s.imported, err = w.ImportKey(t.Context(), kms.KeyID{3}, kms.Encryption, []byte("an imported key of thirty-two by"))
	ok(t, err)
	for _, h := range [][]byte{s.encryption, s.imported} {
		c, err := w.Encrypt(t.Context(), h, []byte(samplePlaintext), []byte(sampleData))
		ok(t, err)
		s.ciphertexts = append(s.ciphertexts, c)
	}
	s.record, err = w.MAC(t.Context(), nil, []byte("a record"))
	ok(t, err)
	s.mac, err = w.MAC(t.Context(), s.authentication, []byte("a message"))
	ok(t, err)
	return s
}

// opens checks that all of a sample opens.
func (s sample) opens(t *testing.T, r *mirror.Root) {
	t.Helper()
	for i, h := range [][]byte{s.encryption, s.imported} {
		p, err := r.Decrypt(t.Context(), h, s.ciphertexts[i], []byte(sampleData))
		if err != nil || string(p) != samplePlaintext {
			t.Fatalf("%q, %v", p, err)
		}
	}
	if mac, err := r.MAC(t.Context(), nil, []byte("a record")); err != nil || mac != s.record {
		t.Fatalf("another MAC of a record, %v", err)
	}
	if mac, err := r.MAC(t.Context(), s.authentication, []byte("a message")); err != nil || mac != s.mac {
		t.Fatalf("another MAC, %v", err)
	}
	ok(t, r.Random(t.Context(), make([]byte, 32)))
	ok(t, r.Status(t.Context()))
	// And what is bad is still said to be bad, as far as a root says so.
	_, err := r.Decrypt(t.Context(), s.encryption, s.ciphertexts[0], []byte("another context"))
	is(t, err, kms.ErrCiphertext)
}

func says(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Fatalf("error is %v, without %q", err, text)
	}
}
