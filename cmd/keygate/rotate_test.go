package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keygate/keygate/hsm"
	"github.com/keygate/keygate/keystore/fs"
	"github.com/keygate/keygate/kms"
	"github.com/keygate/keygate/softhsm"
)

// A rotation is a token and a key store with keys, some of which were imported or
// deleted, under its first KEK, and a second KEK that the program has made.
type rotation struct {
	dir     string
	token   softhsm.Fixture
	cluster kms.ClusterID
	oldKEK  string // the file of its object in the token

	names       []string // of the keys that can be used
	all         int      // records
	deks        map[string][]byte
	ciphertexts map[string][]byte
	macs        map[string][kms.MACSize]byte
}

const rotateConfig = `cluster: 5f0c1d2e3b4a59687786950a1b2c3d4e
keystore: {fs: {path: %s}}
root: {pkcs11: {module: %s, token: %s, pin: {file: %s}, %s}}
`

func newRotation(t *testing.T, keys int) *rotation {
	r := &rotation{dir: t.TempDir(), token: softhsm.Token(t), deks: map[string][]byte{}, ciphertexts: map[string][]byte{}, macs: map[string][kms.MACSize]byte{}}
	var err error
	r.cluster, err = kms.ParseClusterID("5f0c1d2e3b4a59687786950a1b2c3d4e")
	check(t, err)
	check(t, fs.Init(fs.Config{Path: r.store()}, r.cluster.String()))
	before := r.objects(t)
	_, err = hsm.Init(t.Context(), r.hsm(hsm.DefaultKEK))
	check(t, err)
	r.oldKEK = r.firstOf(t, before)
	for path, keks := range map[string]string{"knows.yaml": "other_keks: [kek-2]", "uses.yaml": "kek: kek-2, other_keks: [keygate-kek]", "after.yaml": "kek: kek-2", "before.yaml": ""} {
		text := fmt.Sprintf(rotateConfig, r.store(), r.token.Module, r.token.Label, r.token.PINFile, keks)
		check(t, os.WriteFile(filepath.Join(r.dir, path), []byte(text), 0o600))
	}
	r.make(t, keys)
	if out, err := r.keygate("begin", "--config", "knows.yaml", "--so-pin-file", r.token.SOFile).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return r
}

func (r *rotation) store() string { return filepath.Join(r.dir, "keys") }

func (r *rotation) hsm(kek string, others ...string) hsm.Config {
	return hsm.Config{Module: r.token.Module, Token: r.token.Label, PIN: hsm.PIN{File: r.token.PINFile}, KEK: kek, OtherKEKs: others}
}

// objects returns the files of the objects of all tokens, with their times.
func (r *rotation) objects(t *testing.T) map[string]time.Time {
	files, err := filepath.Glob(filepath.Join(r.token.Tokens, "*", "*.object"))
	check(t, err)
	all := make(map[string]time.Time)
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && filepath.Base(file) != "token.object" {
			all[file] = info.ModTime()
		}
	}
	return all
}

// firstOf returns the first object that was made since: of Init, the KEK.
func (r *rotation) firstOf(t *testing.T, before map[string]time.Time) (first string) {
	all := r.objects(t)
	for file, at := range all {
		if _, old := before[file]; !old && (first == "" || at.Before(all[first])) {
			first = file
		}
	}
	if len(all) != len(before)+2 {
		t.Fatalf("%d objects were made, not 2: another test has used the shelf", len(all)-len(before))
	}
	return first
}

// open opens a KMS that keeps no record in memory.
func (r *rotation) open(t *testing.T, kek string, others ...string) *kms.KMS {
	t.Helper()
	store, err := fs.Open(fs.Config{Path: r.store()}, r.cluster.String())
	check(t, err)
	root, err := hsm.Open(t.Context(), r.hsm(kek, others...), nil)
	check(t, err)
	t.Cleanup(func() { store.Close(); root.Close() })
	k, err := kms.New(kms.Config{Cluster: r.cluster, RecordTTL: time.Nanosecond}, root, store)
	check(t, err)
	return k
}

func (r *rotation) make(t *testing.T, keys int) {
	store, err := fs.Open(fs.Config{Path: r.store()}, r.cluster.String())
	check(t, err)
	defer store.Close()
	root, err := hsm.Open(t.Context(), r.hsm(hsm.DefaultKEK), nil)
	check(t, err)
	defer root.Close() // before the security officer logs in, in another process
	k, err := kms.New(kms.Config{Cluster: r.cluster}, root, store)
	check(t, err)
	for i := range keys {
		name := fmt.Sprintf("key-%03d", i)
		if i%3 == 2 {
			_, err = k.ImportKey(t.Context(), name, "", bytes.Repeat([]byte{byte(i)}, kms.KeySize))
		} else {
			_, err = k.CreateKey(t.Context(), name, "")
		}
		check(t, err)
		r.all++
		if i%5 == 4 {
			_, err := k.DeleteKey(t.Context(), name)
			check(t, err)
			continue
		}
		r.names = append(r.names, name)
		r.deks[name], r.ciphertexts[name], _, err = k.GenerateDataKey(t.Context(), name, nil)
		check(t, err)
		r.macs[name], _, err = k.MAC(t.Context(), name, []byte("message"))
		check(t, err)
	}
}

// opens returns an error unless k opens all that was made under the first KEK.
func (r *rotation) opens(ctx context.Context, k *kms.KMS) error {
	for _, name := range r.names {
		dek, _, err := k.Decrypt(ctx, name, r.ciphertexts[name], nil)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		mac, _, err := k.MAC(ctx, name, []byte("message"))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !bytes.Equal(dek, r.deks[name]) || mac != r.macs[name] {
			return fmt.Errorf("%s is another key", name)
		}
	}
	return nil
}

// keygate returns the command keygate hsm rotate ARGUMENTS.
func (r *rotation) keygate(arguments ...string) *exec.Cmd {
	cmd := exec.Command("keygate", append([]string{"hsm", "rotate"}, arguments...)...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), softhsm.ConfEnv+"="+r.token.Conf)
	return cmd
}

// done returns how many records need the present KEK, and no other.
func (r *rotation) done(t *testing.T, k *kms.KMS) int {
	t.Helper()
	all, err := k.Wrappings(t.Context())
	check(t, err)
	records := map[bool]int{}
	for _, w := range all {
		records[w.Present] += w.Records
	}
	if records[true]+records[false] != r.all {
		t.Errorf("%d records need the new KEK and %d the old one, of %d: %+v", records[true], records[false], r.all, all)
	}
	return records[true]
}

// records returns the records as they are in the store.
func (r *rotation) records(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(r.store(), "*.record"))
	check(t, err)
	all := make(map[string]string)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		check(t, err)
		all[file] = string(raw)
	}
	if len(all) != r.all {
		t.Fatalf("%d records in the store, not %d", len(all), r.all)
	}
	return all
}

// differ returns how many records are not what they were.
func differ(before, now map[string]string) (n int) {
	for file, raw := range before {
		if now[file] != raw {
			n++
		}
	}
	return n
}

// TestOP10_KS02_TheRunIsKilled kills it with SIGKILL as soon as each record in turn has
// been written, with another node that uses all keys meanwhile, until all is done, and
// then takes the old KEK out of the token. With KEYGATE_LONG=1 there are 100 keys, and
// 100 kills at random times.
func TestOP10_KS02_TheRunIsKilled(t *testing.T) {
	keys, rate, long := 6, "50", os.Getenv("KEYGATE_LONG") == "1"
	if long {
		keys, rate = 100, "5"
	}
	r := newRotation(t, keys)
	node, counts := r.open(t, "kek-2", hsm.DefaultKEK), r.open(t, "kek-2", hsm.DefaultKEK)
	lagging := r.open(t, hsm.DefaultKEK, "kek-2") // a node that still makes keys under the old one
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	rounds := make([]int, 2)
	for i, k := range []*kms.KMS{node, lagging} {
		load.Go(func() {
			for ctx.Err() == nil {
				if err := r.opens(t.Context(), k); err != nil {
					t.Error(err)
					return
				}
				rounds[i]++
			}
		})
	}
	kills, first := 0, r.records(t)
	for done := 0; done < r.all; {
		if long && kills == 100 {
			rate = "0" // and to the end
		}
		cmd := r.keygate("run", "--config", "uses.yaml", "--rate", rate)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		check(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		begun, end := time.Now(), rand.N(500*time.Millisecond)
		for long && rate != "0" && time.Since(begun) < end || !long && differ(first, r.records(t)) == done {
			select {
			case err := <-ended:
				t.Fatalf("the run ended with %d of %d records done: %v\n%s", done, r.all, err, out.String())
			case <-time.After(time.Millisecond):
			}
		}
		if rate == "0" {
			if err := <-ended; err != nil {
				t.Fatalf("%v\n%s", err, out.String())
			}
			ended <- nil
		} else if cmd.Process.Signal(syscall.SIGKILL) == nil {
			kills++
		}
		<-ended
		done = differ(first, r.records(t))
		if got := r.done(t, counts); got != done {
			t.Errorf("%d records need the new KEK alone, and %d were written", got, done)
		}
	}
	stop()
	load.Wait()
	if kills < 2 || rounds[0] == 0 || rounds[1] == 0 {
		t.Errorf("%d kills, %v rounds of use: the test shows nothing", kills, rounds)
	}
	t.Logf("%d kills; all keys were used %v times by two other nodes", kills, rounds)
	if out, err := r.keygate("status", "--config", "uses.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	r.withoutTheOldKEK(t)
}

// withoutTheOldKEK takes the old KEK out of the token for good.
func (r *rotation) withoutTheOldKEK(t *testing.T) {
	check(t, os.Remove(r.oldKEK))
	cmd := r.keygate("status", "--config", "uses.yaml")
	if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte(`no secret key "keygate-kek"`)) {
		t.Errorf("the old KEK is still there: %v\n%s", err, out)
	}
	k := r.open(t, "kek-2")
	check(t, r.opens(t.Context(), k))
	_, _, _, err := k.GenerateDataKey(t.Context(), r.names[0], nil)
	check(t, err)
}

// TestOP10_TwoRunsAtOnce has two processes re-wrap the same keys, while two nodes, one of
// which still wraps by the old KEK, make, import and delete others.
func TestOP10_TwoRunsAtOnce(t *testing.T) {
	r := newRotation(t, 12)
	nodes := []*kms.KMS{r.open(t, "kek-2", hsm.DefaultKEK), r.open(t, hsm.DefaultKEK, "kek-2")}
	made := make([]map[string][]byte, len(nodes)) // ciphertexts of an empty message, by the name of the key
	var runs, load sync.WaitGroup
	stop := make(chan struct{})
	for i, k := range nodes {
		made[i] = make(map[string][]byte)
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := r.churn(t.Context(), k, fmt.Sprintf("churn-%d-%03d", i, n), made[i]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 2 {
		runs.Go(func() {
			if out, err := r.keygate("run", "--config", "uses.yaml").CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	runs.Wait()
	close(stop)
	load.Wait()
	if out, err := r.keygate("run", "--config", "uses.yaml").CombinedOutput(); err != nil { // what was made after a run listed the keys
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := r.keygate("status", "--config", "uses.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	r.withoutTheOldKEK(t)
	k := r.open(t, "kek-2")
	for _, ciphertexts := range made {
		if len(ciphertexts) == 0 {
			t.Error("a node made no key: the test shows nothing")
		}
		for name, ciphertext := range ciphertexts {
			if _, _, err := k.Decrypt(t.Context(), name, ciphertext, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// churn makes one key and imports another, and deletes that. The first has a ciphertext
// in made.
func (r *rotation) churn(ctx context.Context, k *kms.KMS, name string, made map[string][]byte) error {
	if _, err := k.CreateKey(ctx, name, ""); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ciphertext, _, err := k.Encrypt(ctx, name, nil, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	made[name] = ciphertext
	if _, err := k.ImportKey(ctx, name+"-i", "", make([]byte, kms.KeySize)); err != nil {
		return fmt.Errorf("%s-i: %w", name, err)
	}
	if _, err := k.DeleteKey(ctx, name+"-i"); err != nil {
		return fmt.Errorf("%s-i: %w", name, err)
	}
	return r.opens(ctx, k)
}
