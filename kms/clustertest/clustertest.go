// Package clustertest is the suite for several KMSes over one key store on a
// network: what one does holds at the others in time, whatever the network does, and
// no key is found in what the store keeps.
package clustertest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/hsm/hsmtest"
	"github.com/keygate/keygate/keystore"
	"github.com/keygate/keygate/keystore/storetest/netfault"
	"github.com/keygate/keygate/kms"
)

// A Harness makes the stores of a cluster.
type Harness struct {
	// Fresh makes an empty store of the cluster ID, and returns a function that
	// opens it as another node would.
	Fresh func(t *testing.T) (open func() keystore.Store)
	// Network opens the store that Fresh made last by way of proxies.
	Network func(t *testing.T) (keystore.Store, []*netfault.Proxy)
	// Data has the servers write all they have to disk, and returns the directories
	// that it is in.
	Data func(t *testing.T) []string
}

// ID is the id of the cluster.
var ID = kms.ClusterID{0xc1, 0xc2}

// bound is how long a change by one node may go unnoticed by another.
const bound = 5 * time.Second

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Run("KS-21 a deleted key is of no use on any node after 5 s", func(t *testing.T) { testDelete(t, h) })
	t.Run("KS-21 a read that races a delete does not bring the record back", func(t *testing.T) { testRace(t, h) })
	t.Run("KS-32 keys are not lost, changed or brought back, whatever fails", func(t *testing.T) { testHistories(t, h) })
	t.Run("KS-22 the store holds no key, DEK or PIN", func(t *testing.T) { testSearch(t, h) })
}

// node returns a KMS that follows the store until the test ends.
func node(t *testing.T, root kms.Root, s keystore.Store) *kms.KMS {
	t.Helper()
	k, err := kms.New(kms.Config{Cluster: ID, Logger: slog.New(slog.DiscardHandler)}, root, s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Follow(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	for end := time.Now().Add(10 * time.Second); !k.Stats().Watching; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the store is not watched after 10 s")
		}
	}
	return k
}

// testDelete deletes a key on one node, while the networks of others fail, each in
// its way.
func testDelete(t *testing.T, h Harness) {
	root, open := hsmtest.Root(t), h.Fresh(t)
	one, two := node(t, root, open()), node(t, root, open())
	for name, fail := range map[string]func(p *netfault.Proxy){
		"well":        func(*netfault.Proxy) {},
		"silent":      func(p *netfault.Proxy) { p.Set(netfault.Silent) },
		"half_closed": func(p *netfault.Proxy) { p.Set(netfault.Half) },
		"one_byte":    func(p *netfault.Proxy) { p.Set(netfault.Drip) },
		"refused":     func(p *netfault.Proxy) { p.Set(netfault.Refuse); p.Cut() },
		"cut_once":    func(p *netfault.Proxy) { p.Cut() },
	} {
		s, proxies := h.Network(t)
		three := node(t, root, s)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := "app-" + name
			must(t, "create", ignore(one.CreateKey(t.Context(), key, "")))
			must(t, "use", use(t, two, key))
			must(t, "use", use(t, three, key))
			time.Sleep(time.Second)
			must(t, "use", use(t, three, key)) // with a record that was checked a second ago
			for _, p := range proxies {
				fail(p)
			}
			must(t, "delete", ignore(one.DeleteKey(t.Context(), key)))
			deleted := time.Now()
			t.Logf("node 2: used up to %v after the deletion", refused(t, two, key, deleted, kms.ErrPendingDeletion))
			t.Logf("node 3: used up to %v after the deletion", refused(t, three, key, deleted, kms.ErrPendingDeletion, kms.ErrUnavailable))
			for _, p := range proxies {
				p.Set(netfault.Pass)
			}
			healed := time.Now()
			for {
				err := use(t, three, key)
				if errors.Is(err, kms.ErrPendingDeletion) {
					break
				}
				if err == nil || time.Since(healed) > 2*bound {
					t.Fatalf("%v after the network is well: %v", time.Since(healed), err)
				}
			}
		})
	}
}

// refused waits until a key is of no use, and returns when, from since on, the last
// call began that could use it.
func refused(t *testing.T, k *kms.KMS, key string, since time.Time, sentinels ...error) (last time.Duration) {
	t.Helper()
	for {
		// A call that began within the bound may end after it.
		began := time.Since(since)
		err := use(t, k, key)
		for _, sentinel := range sentinels {
			if errors.Is(err, sentinel) {
				return last
			}
		}
		if err != nil {
			t.Fatalf("the key is of no use, but: %v", err)
		}
		if last = began.Round(time.Millisecond); last > bound {
			t.Fatalf("the key is of use %v after its deletion", last)
		}
		time.Sleep(time.Millisecond)
	}
}

func testRace(t *testing.T, h Harness) {
	root, open := hsmtest.Root(t), h.Fresh(t)
	one, two := node(t, root, open()), node(t, root, open())
	for round := range 20 {
		key := fmt.Sprintf("app-%d", round)
		must(t, "create", ignore(one.CreateKey(t.Context(), key, "")))
		end := make(chan struct{})
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				gone := false
				for {
					select {
					case <-end:
						return
					default:
					}
					info, err := two.DescribeKey(t.Context(), key)
					if err != nil {
						t.Errorf("describe: %v", err)
						return
					}
					if gone && info.State == kms.Enabled {
						t.Error("the record is back")
						return
					}
					gone = info.State == kms.PendingDeletion
				}
			})
		}
		must(t, "delete", ignore(one.DeleteKey(t.Context(), key)))
		refused(t, two, key, time.Now(), kms.ErrPendingDeletion)
		time.Sleep(20 * time.Millisecond)
		close(end)
		readers.Wait()
	}
}

// testSearch looks for what must not be in the store, and for what must, so that it
// is known that it would be found.
func testSearch(t *testing.T, h Harness) {
	cfg := hsmtest.Config(t)
	k := node(t, hsmtest.Open(t, cfg), h.Fresh(t)())
	secrets := map[string][]byte{"the PIN": pin(t, cfg)}
	imported := bytes.Repeat([]byte("\xa7keygate\x00"), 4)[:kms.KeySize]
	secrets["an imported key"] = bytes.Clone(imported)
	must(t, "import", ignore(k.ImportKey(t.Context(), "search-imported", "", imported)))
	must(t, "create", ignore(k.CreateKey(t.Context(), "search-made", "")))
	for _, key := range []string{"search-imported", "search-made"} {
		for i := range 3 {
			dek, _, _, err := k.GenerateDataKey(t.Context(), key, nil)
			must(t, "generate", err)
			secrets[fmt.Sprintf("DEK %d of %s", i, key)] = dek
		}
	}
	must(t, "delete", ignore(k.DeleteKey(t.Context(), "search-made")))
	needles := map[string][]byte{"name": []byte("search-made")}
	for what, secret := range secrets {
		needles[what] = secret
		needles[what+" in hex"] = []byte(hex.EncodeToString(secret))
		needles[what+" in base64"] = []byte(base64.RawStdEncoding.EncodeToString(secret))
	}
	found, size := search(t, h.Data(t), needles)
	t.Logf("looked for %d strings in %d bytes", len(needles), size)
	for what := range found {
		if what != "name" {
			t.Errorf("%s is in the store: %s", what, found[what])
		}
	}
	if found["name"] == "" {
		t.Error("the name of the key is not found: is this the store?")
	}
}

func pin(t *testing.T, cfg hsm.Config) []byte {
	t.Helper()
	text, err := os.ReadFile(cfg.PIN.File)
	must(t, "read the PIN", err)
	return bytes.TrimSpace(text)
}

// search returns in which file each needle was found, and how many bytes were read.
func search(t *testing.T, dirs []string, needles map[string][]byte) (found map[string]string, size int64) {
	t.Helper()
	found = make(map[string]string)
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return skipGone(err)
			}
			text, err := os.ReadFile(path)
			size += int64(len(text))
			for what, needle := range needles {
				if bytes.Contains(text, needle) {
					found[what] = path
				}
			}
			return skipGone(err)
		})
		must(t, "search", err)
	}
	return found, size
}

// skipGone passes over files that the server has removed meanwhile.
func skipGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func use(t *testing.T, k *kms.KMS, key string) error {
	_, _, _, err := k.GenerateDataKey(t.Context(), key, nil)
	return err
}

func ignore(_ kms.Info, err error) error { return err }

func must(t *testing.T, call string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", call, err)
	}
}
